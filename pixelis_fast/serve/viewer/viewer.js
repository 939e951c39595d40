// One trace: the chain as steps. Everything of a trace goes into the page as text, never as markup.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const GOOD = new Set(["answered", "called", "stopped"]);
const MANY_PICTURES = 4;

function element(tag, name = "", text = null, ...children) {
  const made = document.createElement(tag);
  if (name) made.className = name;
  if (text !== null) made.textContent = text;
  made.append(...children.filter(Boolean));
  return made;
}

function milliseconds(ms) {
  return ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : `${ms.toFixed(ms < 10 ? 2 : 0)} ms`;
}

function chip(text, kind = "") {
  return element("span", `chip ${kind}`, text);
}

function base() {
  return location.pathname.replace(/\/$/, "");
}

function overlay(picture) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 1000 1000");
  svg.setAttribute("preserveAspectRatio", "none");
  for (const { box, label } of picture.boxes) {
    const rect = document.createElementNS(SVG, "rect");
    const [x0, y0, x1, y1] = box;
    const sides = { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
    for (const [key, value] of Object.entries(sides)) rect.setAttribute(key, value);
    rect.setAttribute("class", label === "asked" ? "asked" : picture.caption === "text" ? "line" : "");
    const title = document.createElementNS(SVG, "title");
    title.textContent = label;
    rect.append(title);
    svg.append(rect);
  }
  return svg;
}

function point([x, y]) {
  const made = element("div", "point");
  made.style.left = `${x / 10}%`;
  made.style.top = `${y / 10}%`;
  return made;
}

function picture(each) {
  const image = element("img");
  image.src = `${base()}/picture/${each.number}`;
  image.alt = each.caption;
  image.width = each.width;
  image.height = each.height;
  image.loading = "lazy";
  const frame = element("div", "frame", null, image, overlay(each), ...each.points.map(point));
  const labels = each.boxes.map(({ label }) => label).filter((label) => label.startsWith("score"));
  const caption = [each.caption, ...labels].join(" · ");
  return element("figure", "", null, frame, element("figcaption", "", caption));
}

function pictures(list) {
  if (!list.length) return null;
  const name = list.length >= MANY_PICTURES ? "pictures many" : "pictures";
  return element("div", name, null, ...list.map(picture));
}

function table(heads, rows) {
  const head = element("tr", "", null, ...heads.map(([text, name]) => element("th", name, text)));
  const made = element("table", "", null, element("thead", "", null, head));
  const body = element("tbody");
  body.append(...rows.map((cells) => element("tr", "", null, ...cells)));
  made.append(body);
  return made;
}

function cell(content, name = "") {
  return content instanceof Node ? element("td", name, null, content) : element("td", name, content);
}

function lines(content) {
  if (!content.lines) return null;
  const rows = content.lines.map((line) => [cell(line.text), cell(line.box.join(", "), "figure")]);
  const left = content.omitted ? element("p", "said", `${content.omitted} more lines`) : null;
  const heads = [["text", ""], ["box", "figure"]];
  return element("div", "", null, element("h3", "", "Text read"), table(heads, rows), left);
}

function spans(content, seconds) {
  if (!content.spans || !seconds) return null;
  const bar = element("div", "spans");
  for (const [start, end, score] of content.spans) {
    const part = element("div");
    part.style.left = `${(100 * start) / seconds}%`;
    part.style.width = `${(100 * (end - start)) / seconds}%`;
    part.title = `${start} to ${end} s, score ${score}`;
    bar.append(part);
  }
  const ends = element("div", "ends", null, element("span", "", "0 s"), element("span", "", `${seconds.toFixed(2)} s`));
  const rows = content.spans.map(([start, end, score]) => [
    cell(`${start} to ${end} s`), cell(String(score), "figure"),
  ]);
  const heads = [["when", ""], ["score", "figure"]];
  return element("div", "", null, element("h3", "", "When"), bar, ends, table(heads, rows));
}

function json(title, value) {
  const made = element("details", "", null, element("summary", "", title),
    element("pre", "", JSON.stringify(value, null, 1)));
  // Lists are shown as tables and pictures already; what is left is short.
  made.open = !(value.lines || value.spans || value.track || value.error);
  return made;
}

function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

function times(title, stages) {
  const entries = Object.entries(stages).sort((a, b) => b[1] - a[1]);
  if (!entries.length) return null;
  const longest = Math.max(...entries.map(([, ms]) => ms), 1e-9);
  const rows = entries.map(([name, ms]) => {
    const bar = element("div", "bar");
    bar.style.width = `${(100 * ms) / longest}%`;
    return [cell(name), cell(element("div", "track", null, bar), "bars"), cell(milliseconds(ms), "figure")];
  });
  return element("div", "", null, element("h3", "", title), table([["stage", ""], ["", ""], ["time", "figure"]], rows));
}

function toolTime(observation) {
  return Object.values(observation.stage_ms).reduce((sum, ms) => sum + ms, 0);
}

function stepHead(step) {
  const observation = step.observation;
  const name = step.call ? step.call.operation : observation ? "unreadable call" : "answer";
  const head = element("div", "row", null, element("span", "number", String(step.number)), element("h2", "", name));
  for (const [key, value] of Object.entries(step.call ? step.call.arguments : {})) {
    head.append(chip(`${key} ${JSON.stringify(value)}`));
  }
  if (observation && observation.engine) head.append(chip(observation.engine));
  if (observation && observation.degraded) head.append(chip("degraded", "warn"));
  if (observation && observation.error) head.append(chip("error", "bad"));
  if (observation && !observation.error) head.append(chip(milliseconds(toolTime(observation))));
  return head;
}

function stepCard(step, trace) {
  const card = element("section", "card", null, stepHead(step));
  card.id = `step-${step.number}`;
  if (step.text) card.append(element("p", "said", step.text));
  const observation = step.observation;
  if (observation && observation.error) card.append(element("p", "error", observation.error));
  if (observation && observation.degraded) card.append(element("p", "said", observation.degraded));
  const shown = pictures(step.pictures);
  if (shown) card.append(shown);
  if (observation) {
    const media = step.call && trace.media[step.call.arguments.media];
    for (const part of [lines(observation.content), spans(observation.content, media ? media.duration_s : 0)]) {
      if (part) card.append(part);
    }
    card.append(json("What the policy read", observation.content));
    if (!observation.error) card.append(element("details", "", null, element("summary", "", "Tool time"), times("Tool time", observation.stage_ms)));
  }
  const surely = step.mean_logprob === null ? "" : `, mean log-probability ${step.mean_logprob}`;
  card.append(element("p", "counts", `${count(step.tokens, "token")}, ${step.forced} forced${surely}`));
  return card;
}

function turns(trace) {
  if (trace.messages.length < 2) return null;
  const card = element("details", "card", null, element("summary", "", `Conversation of ${trace.messages.length} messages`));
  for (const message of trace.messages) {
    const texts = message.parts.map((part) => ("text" in part ? part.text : `[media ${part.media}]`));
    const calls = message.calls.map((call) => `${call.operation} ${JSON.stringify(call.arguments)}`);
    card.append(element("div", "turn", null, chip(message.role),
      element("p", "", [message.thought, ...texts, ...calls].filter(Boolean).join("\n"))));
  }
  return card;
}

function summary(trace) {
  const kind = GOOD.has(trace.status) ? "good" : trace.error ? "bad" : "warn";
  const card = element("section", "card", null, element("h1", "", trace.question || "(no question)"));
  card.append(element("p", "answer", trace.answer === null ? "No answer" : trace.answer));
  if (trace.error) card.append(element("p", "error", trace.error));
  const generated = ["thought", "operation", "argument", "answer"].reduce((sum, role) => sum + (trace.tokens[role] || 0), 0);
  card.append(element("div", "row", null, chip(trace.status, kind), chip(trace.model),
    chip(`policy ${trace.policy_version}`), chip(`seed ${trace.seed}`),
    chip(count(trace.steps.length, "step")), chip(`${count(generated, "token")} generated, ${trace.tokens.forced} forced`),
    chip(`${count(trace.tokens.prompt || 0, "token")} of prompt`),
    chip(new Date(1000 * trace.created).toISOString().replace("T", " ").slice(0, 19) + " UTC")));
  const media = pictures(trace.media.map((each, index) => ({
    ...each.picture,
    caption: `media ${index}: ${each.kind}, ${each.width} × ${each.height}` +
      (each.kind === "video" ? `, ${each.duration_s.toFixed(2)} s, ${each.num_frames} frames` : ""),
  })));
  if (media) card.append(media);
  return card;
}

function show(trace) {
  document.title = `Trace: ${trace.question}`;
  const page = document.getElementById("trace");
  const parts = [summary(trace), turns(trace), ...trace.steps.map((step) => stepCard(step, trace))];
  if (trace.unfinished) {
    parts.push(element("section", "card", null, element("h2", "", "Cut off"), element("p", "said", trace.unfinished)));
  }
  const spent = times("Where the time went", trace.stage_ms);
  if (spent) parts.push(element("section", "card", null, spent));
  page.replaceChildren(...parts.filter(Boolean));
}

async function main() {
  const response = await fetch(`${base()}/trace.json`);
  if (!response.ok) throw new Error(`expected a kept trace, got status ${response.status}`);
  show(await response.json());
}

main().catch((error) => {
  document.getElementById("trace").replaceChildren(element("p", "notice", `The trace cannot be shown: ${error.message}`));
});
