// The inner loops of pairs_kernels.h in plain vector operators. Included once per instruction set,
// inside that set's namespace, with PIXELIS_LANES, PIXELIS_PAIR_ROWS (queries whose products stay
// in registers, times four keys) and PIXELIS_LANE_TARGET set by the including file.

typedef float Lanes __attribute__((vector_size(PIXELIS_LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(PIXELIS_LANES * 4)));
#define PAIR_FUNCTION PIXELIS_LANE_TARGET static inline __attribute__((always_inline))

constexpr int kQueryRows = PIXELIS_PAIR_ROWS;
constexpr int kKeyRows = 4;

PAIR_FUNCTION Lanes load(const float* from) {
  Lanes value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

PAIR_FUNCTION void store(float* to, Lanes value) { std::memcpy(to, &value, sizeof(value)); }

// Halves added until one is left: the same order at every width of vector.
PAIR_FUNCTION float total(Lanes value) {
  float lanes[PIXELIS_LANES];
  std::memcpy(lanes, &value, sizeof(lanes));
  for (int half = PIXELIS_LANES / 2; half >= 1; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

PAIR_FUNCTION Lanes widened(const uint16_t* from) {
  Ints bits;
  for (int i = 0; i < PIXELIS_LANES; ++i) bits[i] = static_cast<int32_t>(uint32_t{from[i]} << 16);
  return (Lanes)bits;
}

PIXELIS_LANE_TARGET float pack(const void* row, bool is_bfloat16, int64_t width, int64_t padded,
                               void* out) {
  float* to = static_cast<float*>(out);
  Lanes squares{};
  for (int64_t at = 0; at < padded; at += PIXELIS_LANES) {
    Lanes value{};
    const int64_t left = std::min<int64_t>(width - at, PIXELIS_LANES);
    if (is_bfloat16) {
      uint16_t bits[PIXELIS_LANES] = {};
      const uint16_t* from = static_cast<const uint16_t*>(row) + at;
      if (left == PIXELIS_LANES) {
        value = widened(from);
      } else {
        std::memcpy(bits, from, left * sizeof(*from));
        value = widened(bits);
      }
    } else if (left == PIXELIS_LANES) {
      value = load(static_cast<const float*>(row) + at);
    } else {
      std::memcpy(&value, static_cast<const float*>(row) + at, left * sizeof(float));
    }
    store(to + at, value);
    squares += value * value;
  }
  return total(squares);
}

PAIR_FUNCTION void product_tile(const float* queries, const float* keys, int64_t padded,
                                float* out) {
  Lanes sums[kQueryRows][kKeyRows] = {};
  for (int64_t at = 0; at < padded; at += PIXELIS_LANES) {
    Lanes key[kKeyRows];
    for (int j = 0; j < kKeyRows; ++j) key[j] = load(keys + j * padded + at);
    for (int i = 0; i < kQueryRows; ++i) {
      const Lanes query = load(queries + i * padded + at);
      for (int j = 0; j < kKeyRows; ++j) sums[i][j] += query * key[j];
    }
  }
  for (int i = 0; i < kQueryRows; ++i) {
    for (int j = 0; j < kKeyRows; ++j) out[j * kPairQueries + i] = total(sums[i][j]);
  }
}

PIXELIS_LANE_TARGET void products(const void* queries, const void* keys, int64_t padded,
                                  int num_queries, float* out) {
  for (int j = 0; j < kPairKeys; j += kKeyRows) {
    const float* key = static_cast<const float*>(keys) + j * padded;
    for (int i = 0; i < num_queries; i += kQueryRows) {
      product_tile(static_cast<const float*>(queries) + i * padded, key, padded,
                   out + j * kPairQueries + i);
    }
  }
}

PIXELIS_LANE_TARGET int exceeding(float* row, const float* query_scale, float key_scale,
                                  const float* threshold, int num_queries, int* exceeding) {
  int count = 0;
  for (int i = 0; i < num_queries; i += PIXELIS_LANES) {
    const Lanes similarity = load(row + i) * (load(query_scale + i) * key_scale);
    store(row + i, similarity);
    int32_t above[PIXELIS_LANES], any = 0;
    const Ints mask = similarity > load(threshold + i);
    std::memcpy(above, &mask, sizeof(above));
    for (int lane = 0; lane < PIXELIS_LANES; ++lane) any |= above[lane];
    if (any == 0) continue;
    const int lanes = std::min(num_queries - i, PIXELIS_LANES);
    for (int lane = 0; lane < lanes; ++lane) {
      if (above[lane] != 0) exceeding[count++] = i + lane;
    }
  }
  return count;
}

PIXELIS_LANE_TARGET void add_shares(const float* row, const float* query_scale, float key_scale,
                                    float floor, float weight, int num_queries, float* votes) {
  for (int i = 0; i < num_queries; i += PIXELIS_LANES) {
    const Lanes share = load(row + i) * (load(query_scale + i) * key_scale) - floor;
    store(votes + i, load(votes + i) + (share > 0.0f ? share : Lanes{}) * weight);
  }
}

const PairKernels kPairKernels{false,    PIXELIS_LANES, pack,      nullptr,
                               products, exceeding,     add_shares};
