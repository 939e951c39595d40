"""The plan cache: one build per key, damage found, foreign files refused, a complete key."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from pixelis_fast.tools_trt.backends import builder
from pixelis_fast.tools_trt.backends.builder import PlanError
from pixelis_fast.tools_trt.engines import plan_keys
from pixelis_fast.tools_trt.engines.plan_keys import plan_key
from pixelis_fast.tools_trt.engines.plans import CACHE_VARIABLE, PlanStore, default_root, key_sha256
from pixelis_fast.tools_trt.graphs import device_identity
from pixelis_fast.tools_trt.graphs.gates import Check, Gate
from pixelis_fast.tools_trt.graphs.spec import TensorSpec
from tests.tools.engine_cases import Columns, columns, columns_spec

KEY = {"graph": "one", "bucket": {"B": 1}}
CONTENT = b"engine" * 1000


class Builds:
    """Writes one file and counts."""

    def __init__(self):
        self.count = 0

    def __call__(self, folder):
        self.count += 1
        (folder / "engine.plan").write_bytes(CONTENT)
        return {"precision": "fp16"}


def obtain(root, build, key=KEY, load=lambda plan: (plan.folder / "engine.plan").read_bytes()):
    return PlanStore(root).obtain(key, name="a/b", build=build, load=load)


def test_a_plan_is_built_once(tmp_path):
    build = Builds()
    content, plan = obtain(tmp_path / "plans", build)
    again, cached = obtain(tmp_path / "plans", build)
    assert (content, again, build.count) == (CONTENT, CONTENT, 1)
    assert (plan.found, cached.found) == ("built", "cached")
    assert cached.facts == {"precision": "fp16"}
    assert cached.num_bytes == len(CONTENT)
    document = json.loads((cached.folder / "plan.json").read_text())
    assert document["key"] == KEY
    assert document["build_seconds"] > 0


def test_another_key_is_another_plan(tmp_path):
    build = Builds()
    obtain(tmp_path, build)
    obtain(tmp_path, build, key=KEY | {"graph": "two"})
    assert build.count == 2


def truncate(folder):
    (folder / "engine.plan").write_bytes(CONTENT[:100])


def flip(folder):
    (folder / "engine.plan").write_bytes(b"E" + CONTENT[1:])


def remove(folder):
    (folder / "engine.plan").unlink()


def add(folder):
    (folder / "other.so").write_bytes(b"not ours")


def break_sidecar(folder):
    (folder / "plan.json").write_text("{")


def other_key(folder):
    document = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(document | {"key": {}}))


@pytest.mark.parametrize("damage", [truncate, flip, remove, add, break_sidecar, other_key])
def test_a_damaged_plan_is_set_aside_and_rebuilt(tmp_path, damage, caplog):
    build = Builds()
    _, plan = obtain(tmp_path, build)
    damage(plan.folder)
    content, rebuilt = obtain(tmp_path, build)
    assert (content, build.count) == (CONTENT, 2)
    assert rebuilt.found.startswith("rebuilt, the plan before was set aside: plan a_b-")
    assert plan.folder.with_suffix(".bad").is_dir()
    assert "plan set aside" in caplog.text
    assert obtain(tmp_path, build)[1].found == "cached"


def test_a_plan_that_does_not_load_is_rebuilt(tmp_path):
    build, loads = Builds(), []

    def load(plan):
        loads.append(plan.found)
        if plan.found == "cached":
            raise PlanError("self-test expected 1, got 2")

    obtain(tmp_path, build, load=load)
    _, plan = obtain(tmp_path, build, load=load)
    assert build.count == 2
    assert loads == ["built", "cached", plan.found]
    assert "self-test expected 1, got 2" in plan.found


def test_a_failed_build_leaves_nothing(tmp_path):
    def build(folder):
        (folder / "half").write_text("x")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        obtain(tmp_path, build)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_folder_others_can_write_to_is_refused(tmp_path):
    root = tmp_path / "plans"
    root.mkdir()
    root.chmod(0o777)
    with pytest.raises(PlanError, match="no other writer"):
        PlanStore(root)


def test_a_linked_folder_is_refused(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(PlanError, match="expected no link"):
        PlanStore(tmp_path / "link")


def test_two_processes_build_once(tmp_path):
    paths = [path for path in sys.path if path]
    code = f"""
import pathlib, sys, time
sys.path[:0] = {paths!r}
from pixelis_fast.tools_trt.engines.plans import PlanStore
root = pathlib.Path(sys.argv[1])
def build(folder):
    with (root / "log").open("a") as log:
        log.write("built\\n")
    time.sleep(0.5)
    (folder / "engine.plan").write_text("x")
    return {{}}
(root / sys.argv[2]).touch()
while not ((root / "one").exists() and (root / "two").exists()):
    time.sleep(0.01)
store = PlanStore(root / "plans")
_, plan = store.obtain({{"a": 1}}, name="n", build=build, load=lambda plan: None)
print(plan.found)
"""
    commands = [[sys.executable, "-c", code, str(tmp_path), name] for name in ("one", "two")]
    running = [subprocess.Popen(c, stdout=subprocess.PIPE, text=True) for c in commands]
    found = sorted(process.communicate(timeout=120)[0].strip() for process in running)
    assert found == ["built", "cached"]
    assert (tmp_path / "log").read_text() == "built\n"


def test_default_root(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "named"))
    assert default_root() == tmp_path / "named"
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "pixelis_fast" / "plans"
    PlanStore()
    assert (tmp_path / "pixelis_fast" / "plans").stat().st_mode & 0o777 == 0o700


BUCKET = {"B": 1, "W": 16}


def key_of(spec=None, bucket=BUCKET, backend="torch_cpu", rungs=("bf16", "fp32"), threads=1):
    return plan_key(
        spec or columns_spec(), bucket, builder=builder(backend), rungs=rungs, threads=threads
    )


class Renamed(Columns):
    pass


def other_table():
    module = columns()
    module.register_buffer("table", torch.ones(1))
    return module


def changed_setting():
    module = columns()
    module.frames = 7
    return module


CHANGES = {
    "graph: structure": {"spec": columns_spec(Renamed().eval())},
    "graph: a table": {"spec": columns_spec(other_table())},
    "graph: a setting": {"spec": columns_spec(changed_setting())},
    "weights": {"spec": columns_spec(weights_id="1" * 64)},
    "bucket": {"bucket": {"B": 1, "W": 32}},
    "tensors": {
        "spec": columns_spec(
            inputs=(
                TensorSpec("x", torch.float32, ("B", 3, 8, "W"), pad=1.0),
                TensorSpec("weight", torch.float32, ("B", "W")),
            )
        )
    },
    "precision policy": {"rungs": ("fp32",)},
    "gate": {"spec": columns_spec(gate=Gate((Check("score", "cosine", 0.5),)))},
    "backend": {"backend": "openvino"},
    "threads": {"threads": 2},
    "name": {"spec": columns_spec(name="test/other")},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_every_choice_is_in_the_key(change):
    assert key_sha256(key_of(**change)) != key_sha256(key_of())


def test_a_key_is_stable():
    assert key_sha256(key_of()) == key_sha256(key_of())
    trained = columns_spec(columns().train())
    assert key_sha256(key_of(trained)) == key_sha256(key_of())


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        (torch, "__version__", "0.0"),
        (plan_keys, "exporter_version", lambda: "other"),
        (device_identity, "cpu_flags", lambda: ("none",)),
        (device_identity, "_cpu_fields", lambda: {"model name": "another"}),
    ],
    ids=["torch", "exporter", "cpu flags", "cpu name"],
)
def test_the_machine_is_in_the_key(monkeypatch, place, name, value):
    before = key_sha256(key_of())
    monkeypatch.setattr(place, name, value)
    assert key_sha256(key_of()) != before


class Card:
    name, major, minor = "H", 9, 0
    multi_processor_count, total_memory = 132, 80 << 30


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "A"), ("major", 8), ("multi_processor_count", 114), ("total_memory", 40 << 30)],
)
def test_a_gpu_is_in_the_key(monkeypatch, field, value):
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    before = device_identity.device_identity(cuda)
    monkeypatch.setattr(Card, field, value)
    assert device_identity.device_identity(cuda) != before


def test_cuda_and_driver_are_in_the_key(monkeypatch, tmp_path):
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Card)
    driver = tmp_path / "version"
    driver.write_text("NVRM version: 580.1\nGCC 13")
    monkeypatch.setattr(device_identity, "DRIVER_FILE", driver)
    before = device_identity.device_identity(cuda)
    assert before["driver"] == "NVRM version: 580.1"
    driver.write_text("NVRM version: 590.2\nGCC 13")
    assert device_identity.device_identity(cuda) != before
    monkeypatch.setattr(torch.version, "cuda", "99.9")
    assert device_identity.device_identity(cuda)["cuda"] == "99.9"


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_the_packages_that_export_are_in_the_key(monkeypatch, package):
    device_identity.exporter_version.cache_clear()
    before = key_sha256(key_of())
    version = device_identity.package_version
    monkeypatch.setattr(
        device_identity,
        "package_version",
        lambda name: "0.0" if name == package else version(name),
    )
    device_identity.exporter_version.cache_clear()
    assert key_sha256(key_of()) != before
    device_identity.exporter_version.cache_clear()


def test_a_package_that_is_not_installed_has_no_version():
    assert device_identity.package_version("no-such-package") == "none"
    assert device_identity.package_version("torch").partition("+")[0].count(".") == 2


def test_versions_of_backends_are_in_the_key(monkeypatch):
    opened = builder("openvino")
    before = key_sha256(key_of(backend="openvino"))
    monkeypatch.setattr(type(opened), "versions", lambda self: {"openvino": "0"})
    assert key_sha256(key_of(backend="openvino")) != before


def test_an_onnx_file_is_in_the_key_by_content(tmp_path):
    keys = []
    for content in (b"one", b"two", b"one"):
        path = tmp_path / f"{len(keys)}.onnx"
        path.write_bytes(content)
        keys.append(key_of(replace(columns_spec(), build=None, onnx_path=path)))
    assert keys[0] == keys[2] != keys[1]


def test_plans_of_another_owner_are_refused(tmp_path, monkeypatch):
    build = Builds()
    obtain(tmp_path, build)
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    with pytest.raises(PlanError, match="owner 4242"):
        obtain(tmp_path, build)
