// Conjugate gradient on (I - alpha A) F = Y, with all steps in one call.

#ifndef DIFFJAX_NATIVE_CG_H_
#define DIFFJAX_NATIVE_CG_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "csr.h"
#include "huge_pages.h"
#include "parallel.h"

namespace diffjax {

// Stopping rule of a column, r^2 <= rtol^2 y^2 or max_steps iterations, and whether to
// return the iterate of smallest residual instead of the last one.
template <typename T>
struct StopCriterion {
  T rtol_squared;
  int32_t max_steps;
  bool keep_best;
};

// Output arrays of some columns of a matrix of `stride` columns.
template <typename T>
struct IterationResult {
  T* value;
  T* residual;
  int32_t* num_steps;
};

// Conjugate gradient as in diffjax/diffusion/_cg.py, formula by formula: columns that
// are zero, finished, not finite or too small to divide by are treated the same way.
// Only sums are taken in another order.
template <typename T>
class ConjugateGradient {
 public:
  ConjugateGradient(const Csr<T>& a, const RowLoops<T>& loops, int64_t stride,
                    int64_t columns, StopCriterion<T> stop, Workers& workers)
      : a_(a),
        loops_(loops),
        width_(loops.width),
        stride_(stride),
        columns_(columns),
        stop_(stop),
        workers_(workers),
        boundaries_(partition_rows(a, width_)),
        parts_(static_cast<int64_t>(boundaries_.size()) - 1),
        x_(a.rows * width_),
        r_(a.rows * width_),
        p_(a.rows * width_),
        q_(a.rows * width_),
        best_x_(stop.keep_best ? a.rows * width_ : 0),
        totals_(parts_ * width_) {}

  void solve(const T* alpha, const T* y, IterationResult<T> result) {
    T alphas[kMaxColumns] = {}, scale[kMaxColumns], rhs_sq[kMaxColumns];
    T resid_sq[kMaxColumns], threshold[kMaxColumns], best_sq[kMaxColumns];
    T step[kMaxColumns], turn[kMaxColumns];
    int32_t num_steps[kMaxColumns] = {};
    // Below it, products that are lost may be more than rounding; see _cg.py.
    const T min_curvature =
        static_cast<T>(a_.rows) *
        (std::numeric_limits<T>::min() / std::numeric_limits<T>::epsilon());
    std::copy_n(alpha, columns_, alphas);
    compute_column_scales(y, scale);
    start_from_zero(y, scale);
    sum_parts(rhs_sq);
    for (int64_t c = 0; c < width_; ++c) {
      resid_sq[c] = best_sq[c] = rhs_sq[c];
      threshold[c] = stop_.rtol_squared * rhs_sq[c];
    }
    for (int32_t count = 0; count < stop_.max_steps; ++count) {
      bool is_active[kMaxColumns], any_active = false;
      for (int64_t c = 0; c < width_; ++c) {
        // Strict, so a column of zeros, such as a padding column, starts finished.
        is_active[c] = resid_sq[c] > threshold[c];
        any_active |= is_active[c];
      }
      if (!any_active) break;
      T curvature[kMaxColumns], new_sq[kMaxColumns];
      for_each_part([&](int64_t part, int64_t first, int64_t last) {
        loops_.apply_system(a_, first, last, alphas, p_.get(), q_.get(), total(part));
      });
      sum_parts(curvature);
      bool is_moving[kMaxColumns];
      for (int64_t c = 0; c < width_; ++c) {
        is_moving[c] = is_active[c] && !(curvature[c] < min_curvature);
        step[c] = is_moving[c] ? resid_sq[c] / curvature[c] : T{0};
      }
      for_each_part([&](int64_t part, int64_t first, int64_t last) {
        loops_.update_residual(first, last, step, q_.get(), r_.get(), total(part));
      });
      sum_parts(new_sq);
      for (int64_t c = 0; c < width_; ++c) {
        turn[c] = is_moving[c] ? new_sq[c] / resid_sq[c] : T{0};
        if (is_active[c]) resid_sq[c] = new_sq[c];
        num_steps[c] += is_active[c];
      }
      bool is_better[kMaxColumns];
      for (int64_t c = 0; c < width_; ++c) {
        // The negated comparison also takes a residual that is NaN.
        is_better[c] = !(resid_sq[c] >= best_sq[c]);
        if (is_better[c]) best_sq[c] = resid_sq[c];
      }
      for_each_part([&](int64_t, int64_t first, int64_t last) {
        loops_.update_solution(first, last, step, turn, r_.get(), p_.get(), x_.get());
        if (stop_.keep_best) copy_better_columns(first, last, is_better);
      });
    }
    write_solution(stop_.keep_best ? best_x_ : x_, scale, result.value);
    for (int64_t c = 0; c < columns_; ++c) {
      const T divisor = rhs_sq[c] > 0 ? rhs_sq[c] : T{1};
      const T final_sq = stop_.keep_best ? best_sq[c] : resid_sq[c];
      result.residual[c] = std::sqrt(final_sq / divisor);
      result.num_steps[c] = num_steps[c];
    }
  }

 private:
  double* total(int64_t part) { return totals_.get() + part * width_; }

  template <typename Body>
  void for_each_part(const Body& body) {
    workers_.for_each(parts_, [&](int64_t part) {
      body(part, boundaries_[part], boundaries_[part + 1]);
    });
  }

  // Adds the parts in a fixed order, whichever thread computed them.
  void sum_parts(T* sums) {
    double totals[kMaxColumns] = {};
    for (int64_t part = 0; part < parts_; ++part) {
      for (int64_t c = 0; c < width_; ++c) totals[c] += total(part)[c];
    }
    for (int64_t c = 0; c < width_; ++c) sums[c] = static_cast<T>(totals[c]);
  }

  // The largest |y| of every column; NaN if the column contains one.
  void compute_column_scales(const T* y, T* scale) {
    for_each_part([&](int64_t part, int64_t first, int64_t last) {
      double* maxima = total(part);
      std::fill(maxima, maxima + width_, 0.0);
      for (int64_t row = first; row < last; ++row) {
        for (int64_t c = 0; c < columns_; ++c) {
          const double magnitude = std::abs(y[row * stride_ + c]);
          if (!(magnitude <= maxima[c]))
            maxima[c] = std::isnan(maxima[c]) ? maxima[c] : magnitude;
        }
      }
    });
    for (int64_t c = 0; c < width_; ++c) {
      double maxima = 0;
      for (int64_t part = 0; part < parts_; ++part) {
        const double magnitude = total(part)[c];
        if (!(magnitude <= maxima)) maxima = std::isnan(maxima) ? maxima : magnitude;
      }
      scale[c] = static_cast<T>(maxima);
    }
  }

  // X = 0, R = P = Y scaled to columns of size 1: squares of small numbers underflow.
  void start_from_zero(const T* y, const T* scale) {
    for_each_part([&](int64_t part, int64_t first, int64_t last) {
      double* squares = total(part);
      std::fill(squares, squares + width_, 0.0);
      for (int64_t row = first; row < last; ++row) {
        for (int64_t c = 0; c < width_; ++c) {
          const int64_t index = row * width_ + c;
          const T entry = c < columns_ ? y[row * stride_ + c] : T{0};
          x_[index] = 0;
          if (stop_.keep_best) best_x_[index] = 0;
          r_[index] = p_[index] = entry / (scale[c] > 0 ? scale[c] : T{1});
          squares[c] += double{r_[index]} * double{r_[index]};
        }
      }
    });
  }

  void copy_better_columns(int64_t first, int64_t last, const bool* is_better) {
    for (int64_t row = first; row < last; ++row) {
      for (int64_t c = 0; c < width_; ++c) {
        if (is_better[c]) best_x_[row * width_ + c] = x_[row * width_ + c];
      }
    }
  }

  void write_solution(const PagedArray<T>& solution, const T* scale, T* value) {
    for_each_part([&](int64_t, int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        for (int64_t c = 0; c < columns_; ++c) {
          value[row * stride_ + c] = solution[row * width_ + c] * scale[c];
        }
      }
    });
  }

  const Csr<T> a_;
  const RowLoops<T> loops_;
  const int64_t width_;
  const int64_t stride_, columns_;
  const StopCriterion<T> stop_;
  Workers& workers_;
  const std::vector<int64_t> boundaries_;
  const int64_t parts_;
  PagedArray<T> x_, r_, p_, q_, best_x_;
  PagedArray<double> totals_;
};

}  // namespace diffjax

#endif  // DIFFJAX_NATIVE_CG_H_
