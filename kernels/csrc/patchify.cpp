#include "patchify.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "check.h"
#include "normalise.h"
#include "threads.h"

namespace pixelis {
namespace {

Normalisation in_bytes(const PatchLayout& layout) {
  Normalisation normalisation{};
  for (int channel = 0; channel < 3; ++channel) {
    normalisation.mean[channel] = layout.mean[channel] * 255.0F;
    normalisation.std[channel] = layout.std[channel] * 255.0F;
  }
  return normalisation;
}

// Where a patch stands among the patches of its temporal group.
int64_t patch_index(const PatchLayout& layout, int row, int column) {
  const int merge = layout.merge_size;
  const int64_t block = int64_t{row / merge} * (layout.columns() / merge) + column / merge;
  return (block * merge + row % merge) * merge + column % merge;
}

// Copies the last time slice written to the ones behind it, channel by channel.
void repeat_slice(const PatchLayout& layout, int last_written, float* patch) {
  const int64_t slice = int64_t{layout.patch_size} * layout.patch_size;
  for (int channel = 0; channel < 3; ++channel) {
    const float* from = patch + (channel * layout.temporal_patch_size + last_written) * slice;
    for (int time = last_written + 1; time < layout.temporal_patch_size; ++time) {
      float* to = patch + (channel * layout.temporal_patch_size + time) * slice;
      std::memcpy(to, from, slice * sizeof(float));
    }
  }
}

// One temporal group: its distinct frames, read band by band.
class GroupReader {
 public:
  GroupReader(const ResizePlan& plan, const FrameView& first, int num_frames, int64_t frame_bytes,
              const PatchLayout& layout, int group)
      : layout_(layout),
        normalisation_(in_bytes(layout)),
        row_bytes_(int64_t{layout.width} * 3),
        band_bytes_(row_bytes_ * layout.patch_size) {
    const int begin = group * layout.temporal_patch_size;
    const int end = std::min(begin + layout.temporal_patch_size, num_frames);
    for (int frame = begin; frame < end; ++frame) {
      FrameView view = first;
      view.pixels += frame * frame_bytes;
      streams_.emplace_back(plan, view);
    }
    bands_.resize(streams_.size() * band_bytes_);
  }

  // out: the first patch of this group.
  void write_band(int row, SimdLevel level, float* out) {
    const int begin = row * layout_.patch_size;
    for (size_t frame = 0; frame < streams_.size(); ++frame) {
      streams_[frame].read(begin, begin + layout_.patch_size, band(frame), row_bytes_);
    }
    for (int column = 0; column < layout_.columns(); ++column) {
      const int64_t index = patch_index(layout_, row, column);
      write_patch(column, level, out + index * layout_.values_per_patch());
    }
  }

 private:
  uint8_t* band(size_t frame) { return bands_.data() + frame * band_bytes_; }

  void write_patch(int column, SimdLevel level, float* patch) {
    const int64_t slice = int64_t{layout_.patch_size} * layout_.patch_size;
    for (size_t frame = 0; frame < streams_.size(); ++frame) {
      normalise_patch(level, band(frame) + column * layout_.patch_size * 3, row_bytes_,
                      layout_.patch_size, normalisation_, patch + frame * slice,
                      layout_.temporal_patch_size * slice);
    }
    repeat_slice(layout_, static_cast<int>(streams_.size()) - 1, patch);
  }

  const PatchLayout& layout_;
  const Normalisation normalisation_;
  const int64_t row_bytes_;
  const int64_t band_bytes_;
  std::vector<RowStream> streams_;
  std::vector<uint8_t> bands_;
};

}  // namespace

void check_layout(const PatchLayout& layout) {
  PIXELIS_CHECK(layout.patch_size >= 1,
                "patch_size: expected at least 1, got " << layout.patch_size);
  PIXELIS_CHECK(layout.temporal_patch_size >= 1,
                "temporal_patch_size: expected at least 1, got " << layout.temporal_patch_size);
  PIXELIS_CHECK(layout.merge_size >= 1,
                "merge_size: expected at least 1, got " << layout.merge_size);
  const int factor = layout.patch_size * layout.merge_size;
  PIXELIS_CHECK(layout.height >= factor && layout.height % factor == 0,
                "height: expected a positive multiple of " << factor << ", got " << layout.height);
  PIXELIS_CHECK(layout.width >= factor && layout.width % factor == 0,
                "width: expected a positive multiple of " << factor << ", got " << layout.width);
  for (const float value : layout.std) {
    PIXELIS_CHECK(value > 0.0F, "std: expected positive numbers, got " << value);
  }
}

void patchify(const FrameView& first, int num_frames, int64_t frame_bytes,
              const PatchLayout& layout, int threads, SimdLevel level, float* out) {
  check_layout(layout);
  const ResizePlan plan(Filter::kBicubic, Rounding::kTorch, first.height, first.width,
                        layout.height, layout.width, level);
  const int64_t values_per_group =
      int64_t{layout.rows()} * layout.columns() * layout.values_per_patch();
  const int num_bands = layout.groups(num_frames) * layout.rows();
  parallel_ranges(num_bands, threads, [&](int begin, int end) {
    while (begin < end) {
      const int group = begin / layout.rows();
      const int group_end = std::min(end, (group + 1) * layout.rows());
      GroupReader reader(plan, first, num_frames, frame_bytes, layout, group);
      for (; begin < group_end; ++begin) {
        reader.write_band(begin % layout.rows(), level, out + group * values_per_group);
      }
    }
  });
}

}  // namespace pixelis
