#include "region.h"

#include <algorithm>
#include <cmath>

#include "check.h"

namespace pixelis {
namespace {

constexpr double kDegreesPerRadian = 57.29577951308232;
// The second moment of a unit square about its centre: a pixel is an area, not a point. It keeps
// a line's minor axis above zero and makes the elongation of an n x m rectangle exactly n / m.
constexpr double kPixelMoment = 1.0 / 12.0;

struct RowSums {
  int64_t count = 0, x = 0, xx = 0;
  int64_t rgb[3] = {0, 0, 0};
};

struct Sums {
  int64_t count = 0, x = 0, y = 0, xx = 0, yy = 0, xy = 0;
  int64_t rgb[3] = {0, 0, 0};
  int box[4] = {0, 0, 0, 0};
};

// Pixels whose 32-bit partial sums cannot overflow: 1024 * 1023^2 < 2^31.
constexpr int kStrip = 1024;

PIXELIS_INLINE void add_strip(const uint8_t* mask, const uint8_t* image, int begin, int n,
                              RowSums* row) {
  int32_t count = 0, x_sum = 0, xx_sum = 0, red = 0, green = 0, blue = 0;
  for (int x = 0; x < n; ++x) {
    const int32_t inside = mask[x] != 0 ? -1 : 0;
    count -= inside;
    x_sum += inside & x;
    xx_sum += inside & (x * x);
    red += inside & image[3 * x];
    green += inside & image[3 * x + 1];
    blue += inside & image[3 * x + 2];
  }
  // Moves the strip's own origin to the row's: sum (x + b)^2 = sum x^2 + 2 b sum x + b^2 n.
  const int64_t offset = begin;
  row->count += count;
  row->x += x_sum + offset * count;
  row->xx += xx_sum + 2 * offset * x_sum + offset * offset * count;
  row->rgb[0] += red;
  row->rgb[1] += green;
  row->rgb[2] += blue;
}

PIXELIS_INLINE RowSums sum_row(const uint8_t* mask, const uint8_t* image, int begin, int end) {
  RowSums row;
  for (; begin < end; begin += kStrip) {
    const int n = std::min(kStrip, end - begin);
    add_strip(mask + begin, image + int64_t{begin} * 3, begin, n, &row);
  }
  return row;
}

PIXELIS_INLINE void add_row(const RowSums& row, int64_t y, Sums* sums) {
  sums->count += row.count;
  sums->x += row.x;
  sums->xx += row.xx;
  sums->y += y * row.count;
  sums->yy += y * y * row.count;
  sums->xy += y * row.x;
  for (int channel = 0; channel < 3; ++channel) sums->rgb[channel] += row.rgb[channel];
}

// [first, last + 1) of the row's inside pixels; begin == end when there is none.
struct Extent {
  int begin, end;
};

PIXELIS_INLINE int first_inside(const uint8_t* mask, int begin, int width) {
  constexpr int kBlock = 64;
  for (; begin + kBlock <= width; begin += kBlock) {
    uint8_t any = 0;
    for (int i = 0; i < kBlock; ++i) any |= mask[begin + i];
    if (any) break;
  }
  while (begin < width && mask[begin] == 0) ++begin;
  return begin;
}

PIXELIS_INLINE Extent extent_of(const uint8_t* mask, int width) {
  const int begin = first_inside(mask, 0, width);
  int end = width;
  constexpr int kBlock = 64;
  for (; end - kBlock >= begin; end -= kBlock) {
    uint8_t any = 0;
    for (int i = 1; i <= kBlock; ++i) any |= mask[end - i];
    if (any) break;
  }
  while (end > begin && mask[end - 1] == 0) --end;
  return {begin, end};
}

PIXELIS_INLINE Sums sum_body(const RegionView& view) {
  Sums sums;
  int left = view.width, right = 0, top = view.height, bottom = 0;
  for (int y = 0; y < view.height; ++y) {
    const uint8_t* mask = view.mask + y * view.mask_row_bytes;
    const Extent extent = extent_of(mask, view.width);
    if (extent.begin >= extent.end) continue;
    const uint8_t* image = view.image + y * view.image_row_bytes;
    add_row(sum_row(mask, image, extent.begin, extent.end), y, &sums);
    left = std::min(left, extent.begin);
    right = std::max(right, extent.end);
    top = std::min(top, y);
    bottom = y + 1;
  }
  const int box[4] = {left, top, right, bottom};
  std::copy(box, box + 4, sums.box);
  return sums;
}

#if PIXELIS_X86
PIXELIS_TARGET_AVX2 Sums sum_avx2(const RegionView& view) { return sum_body(view); }
#endif

// AVX-512 takes the same code as AVX2: wider vectors were slower on the three-byte stride.
Sums sum_region(const RegionView& view, SimdLevel level) {
#if PIXELIS_X86
  if (level != SimdLevel::kBaseline) return sum_avx2(view);
#else
  (void)level;
#endif
  return sum_body(view);
}

// n * sum(ab) - sum(a) * sum(b) over n^2; 128 bits because the difference is of large numbers.
double covariance(int64_t n, int64_t ab, int64_t a, int64_t b) {
  const __int128 scaled = static_cast<__int128>(n) * ab - static_cast<__int128>(a) * b;
  return static_cast<double>(scaled) / (static_cast<double>(n) * static_cast<double>(n));
}

}  // namespace

Region region_properties(const RegionView& view, SimdLevel level) {
  const Sums sums = sum_region(view, level);
  PIXELIS_CHECK(sums.count > 0, "mask_HW: expected at least one pixel inside, got none");
  const auto n = static_cast<double>(sums.count);
  Region region{};
  region.area = sums.count;
  std::copy(sums.box, sums.box + 4, region.box.begin());
  region.centroid_x = static_cast<double>(sums.x) / n;
  region.centroid_y = static_cast<double>(sums.y) / n;
  for (int channel = 0; channel < 3; ++channel) {
    region.mean_rgb[channel] = static_cast<double>(sums.rgb[channel]) / n;
  }
  const double xx = covariance(sums.count, sums.xx, sums.x, sums.x) + kPixelMoment;
  const double yy = covariance(sums.count, sums.yy, sums.y, sums.y) + kPixelMoment;
  const double xy = covariance(sums.count, sums.xy, sums.x, sums.y);
  // Eigenvalues of [[xx, xy], [xy, yy]]. y points down, so the seen angle has the opposite sign;
  // 0 - xy rather than -xy keeps a vertical axis at +90 degrees.
  const double spread = std::hypot(xx - yy, 2.0 * xy);
  region.orientation_deg = 0.5 * std::atan2(2.0 * (0.0 - xy), xx - yy) * kDegreesPerRadian;
  region.elongation = std::sqrt((xx + yy + spread) / (xx + yy - spread));
  return region;
}

}  // namespace pixelis
