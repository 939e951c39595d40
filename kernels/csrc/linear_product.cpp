#include "linear_product.h"

#include <algorithm>
#include <cstring>

#include "linear_buffer.h"
#include "linear_kernels.h"
#include "tile_product.h"

namespace pixelis {
namespace {

// float32 operands: left ones as they are, right ones in panels of the level's width.
class FloatMatrices final : public Product {
 public:
  explicit FloatMatrices(LinearLevel level) : kernels_(linear_kernels(level)) {}

  int64_t transposed_bytes(int64_t k, int64_t n) const override {
    return k * padded(n) * int64_t{sizeof(float)};
  }

  int64_t packed_bytes(int64_t k, int64_t n) const override { return transposed_bytes(k, n); }

  void pack_transposed(const Matrix& matrix, int64_t begin, int64_t end,
                       void* right) const override {
    const int64_t k_count = matrix.columns;
    Buffer<float> row(k_count);
    for (int64_t n = begin; n < padded(end); ++n) {
      if (n < matrix.rows) {
        read_row(matrix, n, row.data());
      } else {
        std::fill(row.data(), row.data() + k_count, 0.0f);
      }
      float* column = panel(right, k_count, n);
      for (int64_t k = 0; k < k_count; ++k) column[k * kernels_.panel_columns] = row.data()[k];
    }
  }

  void pack(const Matrix& matrix, int64_t first, int64_t count, int64_t begin, int64_t end,
            void* right) const override {
    const int64_t width = matrix.columns;
    Buffer<float> row(padded(width));
    std::fill(row.data() + width, row.data() + padded(width), 0.0f);
    for (int64_t k = begin; k < end; ++k) {
      read_row(matrix, first + k, row.data());
      for (int64_t n = 0; n < padded(width); n += kernels_.panel_columns) {
        float* to = panel(right, count, n) + k * kernels_.panel_columns;
        std::memcpy(to, row.data() + n, sizeof(float) * kernels_.panel_columns);
      }
    }
  }

  int64_t left_bytes(int64_t k) const override {
    return kBlockRows * padded_stride(k) * int64_t{sizeof(float)};
  }

  void load_left(const Matrix& matrix, const int64_t* row_ids, int rows,
                 void* left) const override {
    float* to = static_cast<float*>(left);
    for (int row = 0; row < rows; ++row) {
      read_row(matrix, row_ids[row], to + row * padded_stride(matrix.columns));
    }
  }

  void multiply(const void* left, int rows, int64_t k, const void* right, int64_t begin,
                int64_t end, Destination out, Ahead) const override {
    run(static_cast<const float*>(left), padded_stride(k), rows, k, right, begin, end, out);
  }

  // By rows first, by tokens behind it: a left operand is read along k.
  int64_t gradient_bytes(int64_t rows, int64_t tokens) const override {
    return (by_rows_size(rows, tokens) + padded(tokens) * padded_stride(rows)) *
           int64_t{sizeof(float)};
  }

  void put_gradient(const float* block, int64_t stride, int64_t first_row, int rows,
                    int64_t first_token, int tokens, int64_t slice_rows, int64_t slice_tokens,
                    void* slice) const override {
    const int64_t row_stride = padded_stride(slice_tokens);
    float* by_rows = static_cast<float*>(slice) + first_row * row_stride + first_token;
    for (int row = 0; row < rows; ++row) {
      std::memcpy(by_rows + row * row_stride, block + row * stride, sizeof(float) * tokens);
    }
    const int64_t token_stride = padded_stride(slice_rows);
    float* by_tokens = static_cast<float*>(slice) + by_rows_size(slice_rows, slice_tokens) +
                       first_token * token_stride + first_row;
    for (int first = 0; first < tokens; first += 16) {  // a cache line of each row at a time
      for (int token = first; token < first + 16; ++token) {
        for (int row = 0; row < rows; ++row) {
          by_tokens[token * token_stride + row] = block[row * stride + token];
        }
      }
    }
  }

  void weight_gradient(const void* slice, int64_t, int64_t slice_tokens, int64_t first_row,
                       int rows, const void* right, int64_t begin, int64_t end,
                       Destination out) const override {
    const int64_t stride = padded_stride(slice_tokens);
    const float* a = static_cast<const float*>(slice) + first_row * stride;
    run(a, stride, rows, slice_tokens, right, begin, end, out);
  }

  void hidden_gradient(const void* slice, int64_t slice_rows, int64_t slice_tokens,
                       int64_t first_token, int tokens, const void* right, int64_t begin,
                       int64_t end, Destination out) const override {
    const int64_t stride = padded_stride(slice_rows);
    const float* a = static_cast<const float*>(slice) + by_rows_size(slice_rows, slice_tokens) +
                     first_token * stride;
    run(a, stride, tokens, slice_rows, right, begin, end, out);
  }

  void narrow(const float* values, int64_t count, uint16_t* bfloat16) const override {
    kernels_.narrow(values, count, bfloat16);
  }

 private:
  static int64_t by_rows_size(int64_t rows, int64_t tokens) {
    return padded(rows) * padded_stride(tokens);
  }

  void run(const float* a, int64_t a_stride, int rows, int64_t k, const void* right, int64_t begin,
           int64_t end, Destination out) const {
    const int width = kernels_.panel_columns;
    const float* b = static_cast<const float*>(right) + begin * k;
    const int panels = static_cast<int>((padded(end) - begin) / width);
    kernels_.multiply(
        {a, a_stride, rows, b, k * width, k, panels, out.c, out.stride, out.accumulate});
  }

  // Where column n of a packed operand of k_count rows begins.
  float* panel(void* right, int64_t k_count, int64_t n) const {
    const int64_t width = kernels_.panel_columns;
    return static_cast<float*>(right) + n / width * width * k_count + n % width;
  }

  void read_row(const Matrix& matrix, int64_t row, float* out) const {
    const int64_t at = row * matrix.columns;
    if (matrix.is_bfloat16) {
      kernels_.widen(static_cast<const uint16_t*>(matrix.data) + at, matrix.columns, out);
    } else {
      std::memcpy(out, static_cast<const float*>(matrix.data) + at, sizeof(float) * matrix.columns);
    }
  }

  const LinearKernels& kernels_;
};

}  // namespace

std::unique_ptr<Product> make_product(LinearLevel level, bool is_bfloat16) {
#if PIXELIS_X86
  if (level == LinearLevel::kAmx) {
    return make_tile_product(multiply_tiles_amx, is_bfloat16 ? 1 : 3, is_bfloat16 ? 1 : 2);
  }
  if (level == LinearLevel::kAvx512Bf16 && is_bfloat16) {
    return make_tile_product(multiply_tiles_avx512, 1, 1);
  }
#endif
  static_cast<void>(is_bfloat16);
  return std::make_unique<FloatMatrices>(level);
}

}  // namespace pixelis
