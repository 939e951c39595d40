// The bodies of coherence_rows.h, compiled once per instruction set. The including file sets the
// target and PIXELIS_VECTOR_BYTES first, and includes the headers this one needs before that, so
// that no function of theirs is compiled for a CPU that may not be there. Hence no include guard.

namespace pixelis {
namespace {

// Lane i adds up columns i, i + 32, i + 64, …; 32 lanes fill as many registers as that takes.
constexpr int kLanes = 32;
constexpr int kWidth = PIXELIS_VECTOR_BYTES / 4;
constexpr int kParts = kLanes / kWidth;

typedef float Floats __attribute__((vector_size(PIXELIS_VECTOR_BYTES)));
typedef uint32_t Words __attribute__((vector_size(PIXELIS_VECTOR_BYTES)));
typedef uint16_t Halves __attribute__((vector_size(PIXELIS_VECTOR_BYTES / 2)));

struct Lanes {
  Floats part[kParts] = {};
};

struct Bfloat16 {
  uint16_t bits;
};

PIXELIS_INLINE void load_part(const float* from, Floats* to) { std::memcpy(to, from, sizeof *to); }

PIXELIS_INLINE void load_part(const Bfloat16* from, Floats* to) {
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  const Words words = __builtin_convertvector(halves, Words) << 16;
  std::memcpy(to, &words, sizeof *to);
}

PIXELIS_INLINE void store_part(const Floats& from, float* to) {
  std::memcpy(to, &from, sizeof from);
}

// To the nearest, ties to even; a NaN stays one.
PIXELIS_INLINE void store_part(const Floats& from, Bfloat16* to) {
  Words words;
  std::memcpy(&words, &from, sizeof words);
  const Words rounded = (words + 0x7fff + ((words >> 16) & 1)) >> 16;
  const Words is_nan = reinterpret_cast<Words>(from != from);
  const Words chosen = (rounded & ~is_nan) | (0x7fc0 & is_nan);
  const Halves halves = __builtin_convertvector(chosen, Halves);
  std::memcpy(to, &halves, sizeof halves);
}

// The 32 columns at `from`, or the `count` that are left of a row and zeros, which no sum notices.
template <typename T>
PIXELIS_INLINE void load(const T* from, int count, Lanes* to) {
  T rest[kLanes];
  if (count < kLanes) {
    std::memset(rest, 0, sizeof rest);
    std::memcpy(rest, from, count * sizeof(T));
    from = rest;
  }
  for (int i = 0; i < kParts; ++i) load_part(from + i * kWidth, &to->part[i]);
}

template <typename T>
PIXELIS_INLINE void store(const Lanes& from, int count, T* to) {
  T rest[kLanes];
  T* target = count < kLanes ? rest : to;
  for (int i = 0; i < kParts; ++i) store_part(from.part[i], target + i * kWidth);
  if (count < kLanes) std::memcpy(to, rest, count * sizeof(T));
}

PIXELIS_INLINE float sum_of(const Lanes& lanes) {
  float values[kLanes];
  store(lanes, kLanes, values);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) values[i] += values[i + half];
  }
  return values[0];
}

PIXELIS_INLINE int lanes_left(int columns, int at) {
  return columns - at < kLanes ? columns - at : kLanes;
}

template <typename T>
void dot_and_square(const char* a, const char* b, int columns, float* dot, float* square) {
  Lanes dots, squares, left, right;
  for (int at = 0; at < columns; at += kLanes) {
    load(reinterpret_cast<const T*>(a) + at, lanes_left(columns, at), &left);
    load(reinterpret_cast<const T*>(b) + at, lanes_left(columns, at), &right);
    for (int i = 0; i < kParts; ++i) {
      dots.part[i] += left.part[i] * right.part[i];
      squares.part[i] += right.part[i] * right.part[i];
    }
  }
  *dot = sum_of(dots);
  *square = sum_of(squares);
}

template <typename T>
void blend(const Blend& blend, int columns, char* out) {
  for (int at = 0; at < columns; at += kLanes) {
    const int count = lanes_left(columns, at);
    Lanes sums, row;
    for (int which = 0; which < 3; ++which) {
      load(reinterpret_cast<const T*>(blend.rows[which]) + at, count, &row);
      for (int i = 0; i < kParts; ++i) sums.part[i] += row.part[i] * blend.factors[which];
    }
    store(sums, count, reinterpret_cast<T*>(out) + at);
  }
}

template <typename T>
void add_rows(const char* rows, int64_t row_bytes, int num_rows, int columns, float* sums) {
  for (int at = 0; at < columns; at += kLanes) {
    const int count = lanes_left(columns, at);
    Lanes total, sum, row;
    for (int which = 0; which < num_rows; ++which) {
      load(reinterpret_cast<const T*>(rows + which * row_bytes) + at, count, &row);
      for (int i = 0; i < kParts; ++i) sum.part[i] += row.part[i];
    }
    load(sums + at, count, &total);
    for (int i = 0; i < kParts; ++i) total.part[i] += sum.part[i];
    store(total, count, sums + at);
  }
}

template <typename T>
void scale(const float* row, float factor, int columns, char* out) {
  for (int at = 0; at < columns; at += kLanes) {
    const int count = lanes_left(columns, at);
    Lanes values;
    load(row + at, count, &values);
    for (int i = 0; i < kParts; ++i) values.part[i] *= factor;
    store(values, count, reinterpret_cast<T*>(out) + at);
  }
}

template <typename T>
RowFunctions functions_of() {
  return {dot_and_square<T>, blend<T>, add_rows<T>, scale<T>};
}

RowFunctions functions_for(Element element) {
  return element == Element::kFloat32 ? functions_of<float>() : functions_of<Bfloat16>();
}

}  // namespace
}  // namespace pixelis
