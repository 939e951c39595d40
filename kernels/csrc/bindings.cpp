// The only file that knows Python: typed buffers in, typed buffers out, the interpreter lock
// released in between. Shapes and types were checked in Python; here only what C++ relies on.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <climits>
#include <optional>
#include <string>
#include <vector>

#include "attention_bindings.h"
#include "check.h"
#include "coherence_bindings.h"
#include "linear_bindings.h"
#include "pairs_bindings.h"
#include "patchify.h"
#include "region.h"
#include "resize.h"
#include "simd.h"

namespace py = pybind11;

namespace pixelis {
namespace {

using Bytes = py::array_t<uint8_t, 0>;

int checked_size(const char* name, py::ssize_t size) {
  PIXELIS_CHECK(size >= 1 && size <= INT_MAX / 16,
                name << ": expected 1 to " << INT_MAX / 16 << " pixels, got " << size);
  return static_cast<int>(size);
}

// The last three dimensions of array as rows of packed RGB.
FrameView frame_view(const Bytes& array) {
  const py::ssize_t height_at = array.ndim() - 3;
  PIXELIS_CHECK(height_at >= 0 && array.shape(height_at + 2) == 3,
                "pixels: expected shape (..., height, width, 3)");
  const FrameView view{array.data(), checked_size("height", array.shape(height_at)),
                       checked_size("width", array.shape(height_at + 1)), array.strides(height_at)};
  const bool is_packed = array.strides(height_at + 2) == 1 &&
                         (array.strides(height_at + 1) == 3 || view.width == 1) &&
                         (view.row_bytes >= int64_t{view.width} * 3 || view.height == 1);
  PIXELIS_CHECK(is_packed, "pixels: expected rows of packed RGB bytes, got other strides");
  return view;
}

SimdLevel level_of(const std::optional<std::string>& name) {
  return name ? parse_simd_level(*name) : best_simd_level();
}

Bytes resize_array(const Bytes& image, int height, int width, const std::string& filter,
                   int threads, const std::optional<std::string>& simd) {
  const FrameView frame = frame_view(image);
  checked_size("height", height);
  checked_size("width", width);
  const Filter kind = parse_filter(filter);
  const SimdLevel level = level_of(simd);
  Bytes out({py::ssize_t{height}, py::ssize_t{width}, py::ssize_t{3}});
  uint8_t* pixels = out.mutable_data();
  py::gil_scoped_release unlocked;
  resize(frame, kind, height, width, threads, level, pixels);
  return out;
}

py::array_t<float> patchify_array(const Bytes& frames, int height, int width, int patch_size,
                                  int temporal_patch_size, int merge_size,
                                  const std::array<float, 3>& mean, const std::array<float, 3>& std,
                                  int threads, const std::optional<std::string>& simd) {
  PIXELIS_CHECK(frames.ndim() == 4, "frames: expected 4 dimensions, got " << frames.ndim());
  const FrameView first = frame_view(frames);
  const int num_frames = checked_size("frames", frames.shape(0));
  const PatchLayout layout{checked_size("height", height),
                           checked_size("width", width),
                           patch_size,
                           temporal_patch_size,
                           merge_size,
                           mean,
                           std};
  check_layout(layout);
  const SimdLevel level = level_of(simd);
  const py::ssize_t num_patches =
      py::ssize_t{layout.groups(num_frames)} * layout.rows() * layout.columns();
  py::array_t<float> out({num_patches, static_cast<py::ssize_t>(layout.values_per_patch())});
  float* values = out.mutable_data();
  py::gil_scoped_release unlocked;
  patchify(first, num_frames, frames.strides(0), layout, threads, level, values);
  return out;
}

py::tuple region_tuple(const Bytes& mask, const Bytes& image,
                       const std::optional<std::string>& simd) {
  const FrameView frame = frame_view(image);
  PIXELIS_CHECK(mask.ndim() == 2 && mask.shape(0) == frame.height && mask.shape(1) == frame.width,
                "mask: expected shape (" << frame.height << ", " << frame.width << ")");
  PIXELIS_CHECK(mask.strides(1) == 1 || frame.width == 1,
                "mask: expected rows of packed bytes, got other strides");
  const RegionView view{mask.data(),     mask.strides(0), frame.pixels,
                        frame.row_bytes, frame.height,    frame.width};
  const SimdLevel level = level_of(simd);
  Region region{};
  {
    py::gil_scoped_release unlocked;
    region = region_properties(view, level);
  }
  return py::make_tuple(region.area, py::tuple(py::cast(region.box)),
                        py::make_tuple(region.centroid_x, region.centroid_y),
                        py::tuple(py::cast(region.mean_rgb)), region.orientation_deg,
                        region.elongation);
}

std::vector<std::string> simd_levels() {
  std::vector<std::string> names;
  for (const SimdLevel level : available_simd_levels()) names.emplace_back(simd_level_name(level));
  return names;
}

}  // namespace
}  // namespace pixelis

PYBIND11_MODULE(_cpu, module) {
  using namespace pybind11::literals;
  module.doc() = "C++ host kernels. simd=None runs the best level this CPU has.";
  module.def("simd_levels", &pixelis::simd_levels, "Levels this CPU can run, lowest first.");
  module.def(
      "simd_level", [] { return pixelis::simd_level_name(pixelis::best_simd_level()); },
      "The level that runs when none is named.");
  module.def("resize", &pixelis::resize_array, "image"_a.noconvert(), "height"_a, "width"_a,
             "filter"_a, "threads"_a, py::kw_only(), "simd"_a = py::none());
  module.def("patchify", &pixelis::patchify_array, "frames"_a.noconvert(), "height"_a, "width"_a,
             "patch_size"_a, "temporal_patch_size"_a, "merge_size"_a, "mean"_a, "std"_a,
             "threads"_a, py::kw_only(), "simd"_a = py::none());
  module.def("region_properties", &pixelis::region_tuple, "mask"_a.noconvert(),
             "image"_a.noconvert(), py::kw_only(), "simd"_a = py::none());
  pixelis::bind_attention(module);
  pixelis::bind_coherence(module);
  pixelis::bind_linear(module);
  pixelis::bind_pairs(module);
}
