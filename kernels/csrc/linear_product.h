// The matrix products behind the linear statistics, each level in its own operand layout: float32
// everywhere, bfloat16 tiles where there is AMX. Callers only know sizes in bytes.
//
// Every element is one chain of sums over k in a fixed order, whatever the level's blocking: it
// does not depend on the other rows and columns, nor on the thread that computes it.
#pragma once

#include <cstdint>
#include <memory>

#include "linear_problem.h"

namespace pixelis {

// c, a multiple of kTile columns wide, with room for rows up to a multiple of kTile.
struct Destination {
  float* c;
  int64_t stride;
  bool accumulate;
};

// Memory that is read next, for a product that can fetch it while it runs.
struct Ahead {
  const char* data;
  int64_t bytes;
};

class Product {
 public:
  virtual ~Product() = default;

  // Right operands b[k, n], packed. Ranges begin and end at multiples of kTile or at the end.
  // For logits: b[k, n] = matrix[n, k] for n in [begin, end).
  virtual int64_t transposed_bytes(int64_t k, int64_t n) const = 0;
  virtual void pack_transposed(const Matrix& matrix, int64_t begin, int64_t end,
                               void* right) const = 0;
  // For gradients: b[k, n] = matrix[first + k, n] for k in [begin, end) of count.
  virtual int64_t packed_bytes(int64_t k, int64_t n) const = 0;
  virtual void pack(const Matrix& matrix, int64_t first, int64_t count, int64_t begin, int64_t end,
                    void* right) const = 0;

  // Up to kBlockRows rows of a matrix as a left operand a[m, k].
  virtual int64_t left_bytes(int64_t k) const = 0;
  virtual void load_left(const Matrix& matrix, const int64_t* row_ids, int rows,
                         void* left) const = 0;
  // c = a b over columns [begin, end) of b; rows as loaded.
  virtual void multiply(const void* left, int rows, int64_t k, const void* right, int64_t begin,
                        int64_t end, Destination out, Ahead ahead) const = 0;

  // The gradient of a slice of `rows` vocabulary rows for all tokens.
  virtual int64_t gradient_bytes(int64_t rows, int64_t tokens) const = 0;
  // Takes a block's gradient; rows and tokens up to the next multiple of kTile are readable and 0.
  virtual void put_gradient(const float* block, int64_t stride, int64_t first_row, int rows,
                            int64_t first_token, int tokens, int64_t slice_rows,
                            int64_t slice_tokens, void* slice) const = 0;
  // c[rows, n] = slice[rows, tokens] b, b = pack(hidden).
  virtual void weight_gradient(const void* slice, int64_t slice_rows, int64_t slice_tokens,
                               int64_t first_row, int rows, const void* right, int64_t begin,
                               int64_t end, Destination out) const = 0;
  // c[tokens, n] += sliceᵀ[tokens, rows] b, b = pack(weight).
  virtual void hidden_gradient(const void* slice, int64_t slice_rows, int64_t slice_tokens,
                               int64_t first_token, int tokens, const void* right, int64_t begin,
                               int64_t end, Destination out) const = 0;

  // To the nearest bfloat16, ties to even.
  virtual void narrow(const float* values, int64_t count, uint16_t* bfloat16) const = 0;
};

std::unique_ptr<Product> make_product(LinearLevel level, bool is_bfloat16);

}  // namespace pixelis
