#include "tile_product.h"

#include "tile_pack.h"

#if PIXELIS_X86

namespace pixelis {
namespace {

class TileMatrices final : public Product {
 public:
  TileMatrices(MultiplyTiles multiply, int planes, int gradient_planes)
      : multiply_(multiply), planes_(planes), gradient_planes_(gradient_planes) {}

  int64_t transposed_bytes(int64_t k, int64_t n) const override {
    return tile_bytes(planes_, padded(n) / kTile, k);
  }

  int64_t packed_bytes(int64_t k, int64_t n) const override {
    return tile_bytes(gradient_planes_, padded(n) / kTile, k);
  }

  void pack_transposed(const Matrix& matrix, int64_t begin, int64_t end,
                       void* right) const override {
    tile_transposed(matrix, begin, end, tile_matrix(right, planes_, matrix.columns));
  }

  void pack(const Matrix& matrix, int64_t first, int64_t count, int64_t begin, int64_t end,
            void* right) const override {
    tile_right(matrix, first, begin, end, tile_matrix(right, gradient_planes_, count));
  }

  int64_t left_bytes(int64_t k) const override { return tile_bytes(planes_, kLeftPanels, k); }

  void load_left(const Matrix& matrix, const int64_t* row_ids, int rows,
                 void* left) const override {
    tile_left(matrix, row_ids, rows, tile_matrix(left, planes_, matrix.columns));
  }

  void multiply(const void* left, int rows, int64_t k, const void* right, int64_t begin,
                int64_t end, Destination out, Ahead ahead) const override {
    const TileMatrix a = tile_matrix(const_cast<void*>(left), planes_, k);
    run(a, 0, rows, right, begin, end, out, k, ahead);
  }

  // By rows first, by tokens behind it.
  int64_t gradient_bytes(int64_t rows, int64_t tokens) const override {
    return 2 * tile_bytes(gradient_planes_, padded(rows) / kTile, tokens);
  }

  void put_gradient(const float* block, int64_t stride, int64_t first_row, int rows,
                    int64_t first_token, int tokens, int64_t slice_rows, int64_t slice_tokens,
                    void* slice) const override {
    const TileMatrix by_rows = tile_matrix(slice, gradient_planes_, slice_tokens);
    const TileMatrix by_tokens = tokens_of(slice, slice_rows, slice_tokens);
    for (int row = 0; row < rows; row += kTile) {
      const int64_t row_panel = (first_row + row) / kTile;
      for (int token = 0; token < tokens; token += kTile) {
        const int64_t token_panel = (first_token + token) / kTile;
        tile_gradient(block + row * stride + token, stride, by_rows, row_panel, token_panel,
                      by_tokens, token_panel, row_panel);
      }
    }
  }

  void weight_gradient(const void* slice, int64_t, int64_t slice_tokens, int64_t first_row,
                       int rows, const void* right, int64_t begin, int64_t end,
                       Destination out) const override {
    const TileMatrix a = tile_matrix(const_cast<void*>(slice), gradient_planes_, slice_tokens);
    run(a, first_row, rows, right, begin, end, out, slice_tokens);
  }

  void hidden_gradient(const void* slice, int64_t slice_rows, int64_t slice_tokens,
                       int64_t first_token, int tokens, const void* right, int64_t begin,
                       int64_t end, Destination out) const override {
    const TileMatrix a = tokens_of(const_cast<void*>(slice), slice_rows, slice_tokens);
    run(a, first_token, tokens, right, begin, end, out, slice_rows);
  }

  void narrow(const float* values, int64_t count, uint16_t* bfloat16) const override {
    narrow_lanes(values, count, bfloat16);
  }

 private:
  static constexpr int kLeftPanels = kBlockRows / kTile;

  TileMatrix tokens_of(void* slice, int64_t rows, int64_t tokens) const {
    void* behind = static_cast<char*>(slice) + gradient_bytes(rows, tokens) / 2;
    return tile_matrix(behind, gradient_planes_, rows);
  }

  // k is the left operand's: b has as many rows.
  void run(const TileMatrix& a, int64_t first, int rows, const void* right, int64_t begin,
           int64_t end, Destination out, int64_t k, Ahead ahead = {nullptr, 0}) const {
    const TileMatrix b = tile_matrix(const_cast<void*>(right), a.planes, k);
    multiply_(a, first / kTile, padded(rows) / kTile, b, begin / kTile, padded(end - begin) / kTile,
              out.c, out.stride, out.accumulate, ahead);
  }

  const MultiplyTiles multiply_;
  const int planes_;  // of logits' operands
  const int gradient_planes_;
};

}  // namespace

std::unique_ptr<Product> make_tile_product(MultiplyTiles multiply, int planes,
                                           int gradient_planes) {
  return std::make_unique<TileMatrices>(multiply, planes, gradient_planes);
}

}  // namespace pixelis

#endif
