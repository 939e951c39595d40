// The inner loops of linear_kernels.h for one instruction set. Included where linear_lanes.h is,
// after it, with PIXELIS_ROWS (rows of the product held in registers) set as well.

// Above this a term of the softmax is summed against the block's own largest logit: e stays small
// enough for float32 and the entropy does not cancel.
constexpr float kLift = 16.0f;

// Rows summed before their sum joins the block's: 128 terms in a row would round 128 times.
constexpr int kPart = 16;

LANE_FUNCTION Lanes lifted_anchor(Lanes anchor, Lanes largest) {
  return largest - anchor > kLift ? largest : anchor;
}

LANE_FUNCTION Lanes capped(Lanes raw, float scale, float softcap) {
  return softcap > 0 ? tangent(raw / softcap) * softcap * scale : raw * scale;
}

PIXELIS_LANE_TARGET void transform(float* logits, int64_t stride, int rows, int columns,
                                   float scale, float softcap) {
  if (softcap == 0 && scale == 1) return;
  for (int row = 0; row < rows; ++row) {
    for (int i = 0; i < columns; i += PIXELIS_LANES) {
      float* at = logits + row * stride + i;
      store(at, capped(load(at), scale, softcap));
    }
  }
}

LANE_FUNCTION Ints load_targets(const int64_t* targets, int64_t first_row) {
  int32_t rows[PIXELIS_LANES];
  for (int i = 0; i < PIXELIS_LANES; ++i) rows[i] = static_cast<int32_t>(targets[i] - first_row);
  Ints value;
  std::memcpy(&value, rows, sizeof(value));
  return value;
}

// The block's sums for one vector of tokens without a reference: sums[kAnchor .. kWeightedLogit]
// and kLogit.
LANE_FUNCTION void plain_sums(const BlockView& block, int i, Ints target_rows, Lanes anchor,
                              float* sums, int64_t stride) {
  const float* logits = block.logits + i;
  Lanes largest = load(logits);
  for (int row = 1; row < block.rows; ++row) {
    largest = larger(load(logits + row * block.stride), largest);
  }
  anchor = lifted_anchor(anchor, largest);
  const bool has_target = any((target_rows >= 0) & (target_rows < block.rows));
  Lanes others{}, weighted{}, total{};
  for (int first = 0; first < block.rows; first += kPart) {
    Lanes part_others{}, part_weighted{}, part_total{};
    const int last = std::min(first + kPart, block.rows);
    for (int row = first; row < last; ++row) {
      const Lanes z = load(logits + row * block.stride);
      const Lanes above = z - anchor;
      Lanes e = exponential(above);
      if (has_target) e = target_rows == row ? Lanes{} : e;
      part_others += e;
      part_weighted += e * above;
      part_total += z;
    }
    others += part_others;
    weighted += part_weighted;
    total += part_total;
  }
  store(sums + kAnchor * stride, anchor);
  store(sums + kOthers * stride, others);
  store(sums + kWeightedLogit * stride, weighted);
  store(sums + kLogit * stride, total);
}

// The sums against the reference; its logits in the block become deltas.
LANE_FUNCTION void reference_sums(const BlockView& block, int i, Lanes target_logit, Lanes shift,
                                  float* sums, int64_t stride) {
  const float* logits = block.logits + i;
  float* reference = block.reference + i;
  Lanes largest = load(reference);
  for (int row = 1; row < block.rows; ++row) {
    largest = larger(load(reference + row * block.reference_stride), largest);
  }
  const Lanes anchor = load(sums + kAnchor * stride);
  const Lanes reference_anchor = lifted_anchor(target_logit, largest + shift);
  Lanes ratio{}, excess{}, far{}, all{};
  for (int first = 0; first < block.rows; first += kPart) {
    Lanes part_ratio{}, part_excess{}, part_far{}, part_all{};
    const int last = std::min(first + kPart, block.rows);
    for (int row = first; row < last; ++row) {
      const Lanes z = load(logits + row * block.stride);
      float* at = reference + row * block.reference_stride;
      const Lanes other = load(at);
      const Lanes delta = (z - other) - shift;
      const Lanes e = exponential(z - anchor);
      const Lanes q = exponential(other + shift - reference_anchor);
      const Ints is_far = (delta >= 1.0f) | (delta <= -1.0f);
      part_ratio += e * delta;
      part_excess += e * (is_far ? delta - 1.0f : small_excess(delta));
      part_far += is_far ? q : Lanes{};
      part_all += q;
      store(at, delta);
    }
    ratio += part_ratio;
    excess += part_excess;
    far += part_far;
    all += part_all;
  }
  store(sums + kReferenceAnchor * stride, reference_anchor);
  store(sums + kRatio * stride, ratio);
  store(sums + kExcess * stride, excess);
  store(sums + kFar * stride, far);
  store(sums + kReference * stride, all);
}

PIXELIS_LANE_TARGET void block_sums(const BlockView& block, const TokenView& tokens, float* sums,
                                    int64_t stride) {
  for (int i = 0; i < block.tokens; i += PIXELIS_LANES) {
    const Lanes target_logit = load(tokens.target_logits + i);
    const Ints target_rows = load_targets(tokens.targets + i, block.first_row);
    plain_sums(block, i, target_rows, target_logit, sums + i, stride);
    if (block.reference != nullptr) {
      reference_sums(block, i, target_logit, load(tokens.shifts + i), sums + i, stride);
    }
  }
}

PIXELIS_LANE_TARGET void deltas(const BlockView& block, const float* shifts) {
  for (int row = 0; row < block.rows; ++row) {
    const float* logits = block.logits + row * block.stride;
    float* reference = block.reference + row * block.reference_stride;
    for (int i = 0; i < block.tokens; i += PIXELIS_LANES) {
      store(reference + i, (load(logits + i) - load(reference + i)) - load(shifts + i));
    }
  }
}

template <bool kPlain, bool kReference>
LANE_FUNCTION void gradient_column(const BlockView& block, const TokenView& tokens,
                                   const GradientView& gradient, int i) {
  const Lanes target_logit = load(tokens.target_logits + i);
  const Lanes logprob = load(gradient.logprobs + i);
  const Lanes constant = load(gradient.constant + i) * gradient.scale;
  const Lanes logit = load(gradient.logit + i) * gradient.scale;
  const Lanes of_delta = load(gradient.delta + i) * gradient.scale;
  const Lanes uniform = load(gradient.uniform + i) * gradient.scale;
  const float to_tangent = gradient.softcap > 0 ? 1.0f / (gradient.softcap * gradient.scale) : 0;
  for (int row = 0; row < block.rows; ++row) {
    const Lanes z = load(block.logits + i + row * block.stride);
    // log p by the target's, which is exact where p is close to 1; lse is not.
    const Lanes p = exponential((z - target_logit) + logprob);
    Lanes out = p * constant;
    if (!kPlain) {
      Lanes factor = constant + logit * z;
      if (kReference) {
        factor += of_delta * load(block.reference + i + row * block.reference_stride);
      }
      const Lanes tangent_of_raw = z * to_tangent;
      out = (p * factor + uniform) * (1.0f - tangent_of_raw * tangent_of_raw);
    }
    store(gradient.out + i + row * gradient.out_stride, out);
  }
}

// The target's own entry, where p (constant + …) - target would cancel.
inline void set_target(const BlockView& block, const TokenView& tokens,
                       const GradientView& gradient, int i) {
  const int64_t row = tokens.targets[i] - block.first_row;
  if (row < 0 || row >= block.rows) return;
  const double constant = gradient.constant[i], logprob = gradient.logprobs[i];
  const double z = tokens.target_logits[i];
  const double tangent_of_raw =
      gradient.softcap > 0 ? z / (double{gradient.softcap} * gradient.scale) : 0.0;
  const double value = constant * std::expm1(logprob) + (constant - gradient.target[i]) +
                       std::exp(logprob) * gradient.logit[i] * z + gradient.uniform[i];
  gradient.out[i + row * gradient.out_stride] =
      static_cast<float>(value * gradient.scale * (1 - tangent_of_raw * tangent_of_raw));
}

PIXELIS_LANE_TARGET void block_gradient(const BlockView& block, const TokenView& tokens,
                                        const GradientView& gradient) {
  for (int i = 0; i < block.tokens; i += PIXELIS_LANES) {
    if (gradient.plain) {
      gradient_column<true, false>(block, tokens, gradient, i);
    } else if (block.reference == nullptr) {
      gradient_column<false, false>(block, tokens, gradient, i);
    } else {
      gradient_column<false, true>(block, tokens, gradient, i);
    }
  }
  for (int i = 0; i < block.tokens; ++i) set_target(block, tokens, gradient, i);
}

// kRows rows by two vectors of columns in registers, one panel of b.
template <int kRows>
PIXELIS_LANE_TARGET void multiply_rows(const FloatProduct& product, const float* a, const float* b,
                                       int64_t k_count, float* c, bool accumulate) {
  Lanes sums[kRows][2];
  for (int row = 0; row < kRows; ++row) {
    float* at = c + row * product.c_stride;
    sums[row][0] = accumulate ? load(at) : Lanes{};
    sums[row][1] = accumulate ? load(at + PIXELIS_LANES) : Lanes{};
  }
  for (int64_t k = 0; k < k_count; ++k, b += 2 * PIXELIS_LANES) {
    const Lanes left = load(b), right = load(b + PIXELIS_LANES);
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      const Lanes value = splat(a[row * product.a_stride + k]);
      sums[row][0] += value * left;
      sums[row][1] += value * right;
    }
  }
  for (int row = 0; row < kRows; ++row) {
    float* at = c + row * product.c_stride;
    store(at, sums[row][0]);
    store(at + PIXELIS_LANES, sums[row][1]);
  }
}

template <int kRows>
PIXELIS_LANE_TARGET void multiply_rest(int rows, const FloatProduct& product, const float* a,
                                       const float* b, int64_t k_count, float* c, bool accumulate) {
  if (rows == kRows) return multiply_rows<kRows>(product, a, b, k_count, c, accumulate);
  if constexpr (kRows > 1) {
    multiply_rest<kRows - 1>(rows, product, a, b, k_count, c, accumulate);
  }
}

PIXELIS_LANE_TARGET void multiply(const FloatProduct& product) {
  constexpr int64_t kDepth = 128;  // a panel's 128 rows of b stay in the first-level cache
  constexpr int kPanel = 2 * PIXELIS_LANES;
  for (int64_t k = 0; k < product.k; k += kDepth) {
    const int64_t k_count = std::min(kDepth, product.k - k);
    const bool accumulate = product.accumulate || k > 0;
    for (int panel = 0; panel < product.panels; ++panel) {
      const float* b = product.b + panel * product.b_panel_stride + k * kPanel;
      for (int row = 0; row < product.rows; row += PIXELIS_ROWS) {
        const float* a = product.a + row * product.a_stride + k;
        float* c = product.c + row * product.c_stride + panel * kPanel;
        const int rows = std::min(PIXELIS_ROWS, product.rows - row);
        multiply_rest<PIXELIS_ROWS>(rows, product, a, b, k_count, c, accumulate);
      }
    }
  }
}

PIXELIS_LANE_TARGET void widen(const uint16_t* bfloat16, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t bits = uint32_t{bfloat16[i]} << 16;
    std::memcpy(out + i, &bits, sizeof(bits));
  }
}

// To the nearest, ties to even; NaN stays NaN.
PIXELIS_LANE_TARGET void narrow(const float* values, int64_t count, uint16_t* bfloat16) {
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
    bfloat16[i] = static_cast<uint16_t>(is_nan ? (bits >> 16) | 0x40 : rounded);
  }
}

constexpr LinearKernels kKernels{2 * PIXELIS_LANES, transform, block_sums, deltas,
                                 block_gradient,    multiply,  widen,      narrow};
