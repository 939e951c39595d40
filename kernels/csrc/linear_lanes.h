// Vectors of PIXELIS_LANES floats in plain C++ operators, and the functions of them that a softmax
// needs. Included once per instruction set, inside that set's namespace, with PIXELIS_LANES and
// PIXELIS_LANE_TARGET (the target attribute) set by the including file.

typedef float Lanes __attribute__((vector_size(PIXELIS_LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(PIXELIS_LANES * 4)));
typedef uint16_t Shorts __attribute__((vector_size(PIXELIS_LANES * 2)));
#define LANE_FUNCTION PIXELIS_LANE_TARGET static inline __attribute__((always_inline))

LANE_FUNCTION Lanes splat(float value) { return value - Lanes{}; }
LANE_FUNCTION Ints splat_int(int32_t value) { return value - Ints{}; }

LANE_FUNCTION Lanes load(const float* from) {
  Lanes value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}

LANE_FUNCTION void store(float* to, Lanes value) { std::memcpy(to, &value, sizeof(value)); }

LANE_FUNCTION bool any(Ints mask) {
  int32_t lanes[PIXELIS_LANES];
  std::memcpy(lanes, &mask, sizeof(mask));
  int32_t found = 0;
  for (int i = 0; i < PIXELIS_LANES; ++i) found |= lanes[i];
  return found != 0;
}

LANE_FUNCTION Lanes larger(Lanes a, Lanes b) { return a > b ? a : b; }

// exp(x) for x <= 88 to one unit in the last place; below -87 it is 0. NaN stays NaN.
// x = n log 2 + r with |r| <= log(2) / 2, and the series of exp(r) to r^7.
LANE_FUNCTION Lanes exponential(Lanes x) {
  const Lanes lowest = splat(-87.0f);
  const Ints is_zero = x < lowest;
  x = is_zero ? lowest : x;
  const Lanes round =
      splat(12582912.0f);  // 1.5 · 2^23: adding it leaves an integer in the low bits
  const Lanes shifted = x * splat(1.44269504f) + round;
  const Lanes n = shifted - round;
  Lanes r = x - n * splat(0.693359375f);  // log 2 = 0.693359375 - 2.12194440e-4
  r = r + n * splat(2.12194440e-4f);
  Lanes series = splat(1.0f / 5040);
  series = series * r + splat(1.0f / 720);
  series = series * r + splat(1.0f / 120);
  series = series * r + splat(1.0f / 24);
  series = series * r + splat(1.0f / 6);
  series = series * r + splat(0.5f);
  series = series * r + splat(1.0f);
  series = series * r + splat(1.0f);
  const Ints power = ((Ints)shifted << 23) + splat_int(0x3f800000);
  return is_zero ? Lanes{} : series * (Lanes)power;
}

// exp(-d) - 1 + d for |d| < 1, without the cancellation: its series to d^11.
LANE_FUNCTION Lanes small_excess(Lanes d) {
  const Lanes x = -d;
  Lanes series = splat(1.0f / 39916800);
  series = series * x + splat(1.0f / 3628800);
  series = series * x + splat(1.0f / 362880);
  series = series * x + splat(1.0f / 40320);
  series = series * x + splat(1.0f / 5040);
  series = series * x + splat(1.0f / 720);
  series = series * x + splat(1.0f / 120);
  series = series * x + splat(1.0f / 24);
  series = series * x + splat(1.0f / 6);
  series = series * x + splat(0.5f);
  return series * x * x;
}

// tanh by exp(-2|x|) from 1 up, by its odd continued fraction below, where 1 - exp cancels.
LANE_FUNCTION Lanes tangent(Lanes x) {
  const Lanes size = x < 0.0f ? -x : x;
  const Lanes small_power = exponential(splat(-2.0f) * size);
  const Lanes large = (1.0f - small_power) / (1.0f + small_power);
  const Lanes square = x * x;
  const Lanes top = x * (10395.0f + square * (1260.0f + square * 21.0f));
  const Lanes bottom = 10395.0f + square * (4725.0f + square * (210.0f + square));
  return size < 1.0f ? top / bottom : (x < 0.0f ? -large : large);
}
