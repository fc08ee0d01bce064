// Conjugate gradient on (I - alpha A) F = Y, with all steps in one call.

#ifndef DIFFJAX_NATIVE_CG_H_
#define DIFFJAX_NATIVE_CG_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "csr.h"
#include "numbers.h"
#include "parallel.h"

namespace diffjax {

// Stopping rule of a column, r^2 <= rtol^2 y^2 or most_steps iterations, and whether to
// return the iterate of smallest residual instead of the last one.
template <typename T>
struct Stop {
  T rtol_squared;
  int32_t most_steps;
  bool keep_best;
};

// Output arrays of some columns of a matrix of `stride` columns.
template <typename T>
struct Answers {
  T* value;
  T* residual;
  int32_t* steps;
};

// Conjugate gradient as in diffjax/diffusion/_cg.py, formula by formula: columns that
// are zero, finished, not finite or too small to divide by are treated the same way.
// Only sums are taken in another order.
template <typename T>
class ConjugateGradient {
 public:
  ConjugateGradient(const Csr<T>& a, const Loops<T>& loops, int64_t stride,
                    int64_t columns, Stop<T> stop, Workers& workers)
      : a_(a),
        loops_(loops),
        width_(loops.width),
        stride_(stride),
        columns_(columns),
        stop_(stop),
        workers_(workers),
        cuts_(cut_rows(a, width_)),
        parts_(static_cast<int64_t>(cuts_.size()) - 1),
        x_(a.rows * width_),
        r_(a.rows * width_),
        p_(a.rows * width_),
        q_(a.rows * width_),
        best_(stop.keep_best ? a.rows * width_ : 0),
        totals_(parts_ * width_) {}

  void solve(const T* alpha, const T* y, Answers<T> answers) {
    T alphas[kMostColumns] = {}, size[kMostColumns], start_sq[kMostColumns];
    T resid_sq[kMostColumns], goal[kMostColumns], least[kMostColumns];
    T step[kMostColumns], turn[kMostColumns];
    int32_t steps[kMostColumns] = {};
    // Below it, products that are lost may be more than rounding; see _cg.py.
    const T least_curvature = static_cast<T>(a_.rows) *
                              (std::numeric_limits<T>::min() /
                               std::numeric_limits<T>::epsilon());
    std::copy_n(alpha, columns_, alphas);
    largest(y, size);
    begin(y, size);
    sum_up(start_sq);
    for (int64_t c = 0; c < width_; ++c) {
      resid_sq[c] = least[c] = start_sq[c];
      goal[c] = stop_.rtol_squared * start_sq[c];
    }
    for (int32_t taken = 0; taken < stop_.most_steps; ++taken) {
      bool active[kMostColumns], any = false;
      for (int64_t c = 0; c < width_; ++c) {
        // Strict, so a column of zeros, such as a padding column, starts finished.
        active[c] = resid_sq[c] > goal[c];
        any |= active[c];
      }
      if (!any) break;
      T curvature[kMostColumns], new_sq[kMostColumns];
      each_part([&](int64_t part, int64_t first, int64_t last) {
        loops_.curve(a_, first, last, alphas, p_.get(), q_.get(), total(part));
      });
      sum_up(curvature);
      bool go[kMostColumns];
      for (int64_t c = 0; c < width_; ++c) {
        go[c] = active[c] && !(curvature[c] < least_curvature);
        step[c] = go[c] ? resid_sq[c] / curvature[c] : T{0};
      }
      each_part([&](int64_t part, int64_t first, int64_t last) {
        loops_.reduce(first, last, step, q_.get(), r_.get(), total(part));
      });
      sum_up(new_sq);
      for (int64_t c = 0; c < width_; ++c) {
        turn[c] = go[c] ? new_sq[c] / resid_sq[c] : T{0};
        if (active[c]) resid_sq[c] = new_sq[c];
        steps[c] += active[c];
      }
      bool better[kMostColumns];
      for (int64_t c = 0; c < width_; ++c) {
        // The negated comparison also takes a residual that is NaN.
        better[c] = !(resid_sq[c] >= least[c]);
        if (better[c]) least[c] = resid_sq[c];
      }
      each_part([&](int64_t, int64_t first, int64_t last) {
        loops_.move(first, last, step, turn, r_.get(), p_.get(), x_.get());
        if (stop_.keep_best) keep(first, last, better);
      });
    }
    finish(stop_.keep_best ? best_ : x_, size, answers.value);
    for (int64_t c = 0; c < columns_; ++c) {
      const T safe = start_sq[c] > 0 ? start_sq[c] : T{1};
      const T last = stop_.keep_best ? least[c] : resid_sq[c];
      answers.residual[c] = std::sqrt(last / safe);
      answers.steps[c] = steps[c];
    }
  }

 private:
  double* total(int64_t part) { return totals_.get() + part * width_; }

  template <typename Body>
  void each_part(const Body& body) {
    workers_.for_each(parts_, [&](int64_t part) {
      body(part, cuts_[part], cuts_[part + 1]);
    });
  }

  // Adds the parts in a fixed order, whichever thread computed them.
  void sum_up(T* sums) {
    double all[kMostColumns] = {};
    for (int64_t part = 0; part < parts_; ++part) {
      for (int64_t c = 0; c < width_; ++c) all[c] += total(part)[c];
    }
    for (int64_t c = 0; c < width_; ++c) sums[c] = static_cast<T>(all[c]);
  }

  // The largest |y| of every column; NaN if the column contains one.
  void largest(const T* y, T* size) {
    each_part([&](int64_t part, int64_t first, int64_t last) {
      double* most = total(part);
      std::fill(most, most + width_, 0.0);
      for (int64_t row = first; row < last; ++row) {
        for (int64_t c = 0; c < columns_; ++c) {
          const double own = std::abs(y[row * stride_ + c]);
          if (!(own <= most[c])) most[c] = std::isnan(most[c]) ? most[c] : own;
        }
      }
    });
    for (int64_t c = 0; c < width_; ++c) {
      double most = 0;
      for (int64_t part = 0; part < parts_; ++part) {
        const double own = total(part)[c];
        if (!(own <= most)) most = std::isnan(most) ? most : own;
      }
      size[c] = static_cast<T>(most);
    }
  }

  // X = 0, R = P = Y scaled to columns of size 1: squares of small numbers underflow.
  void begin(const T* y, const T* size) {
    each_part([&](int64_t part, int64_t first, int64_t last) {
      double* squares = total(part);
      std::fill(squares, squares + width_, 0.0);
      for (int64_t row = first; row < last; ++row) {
        for (int64_t c = 0; c < width_; ++c) {
          const int64_t at = row * width_ + c;
          const T own = c < columns_ ? y[row * stride_ + c] : T{0};
          x_[at] = 0;
          if (stop_.keep_best) best_[at] = 0;
          r_[at] = p_[at] = own / (size[c] > 0 ? size[c] : T{1});
          squares[c] += double{r_[at]} * double{r_[at]};
        }
      }
    });
  }

  void keep(int64_t first, int64_t last, const bool* better) {
    for (int64_t row = first; row < last; ++row) {
      for (int64_t c = 0; c < width_; ++c) {
        if (better[c]) best_[row * width_ + c] = x_[row * width_ + c];
      }
    }
  }

  void finish(const Numbers<T>& found, const T* size, T* value) {
    each_part([&](int64_t, int64_t first, int64_t last) {
      for (int64_t row = first; row < last; ++row) {
        for (int64_t c = 0; c < columns_; ++c) {
          value[row * stride_ + c] = found[row * width_ + c] * size[c];
        }
      }
    });
  }

  const Csr<T> a_;
  const Loops<T> loops_;
  const int64_t width_;
  const int64_t stride_, columns_;
  const Stop<T> stop_;
  Workers& workers_;
  const std::vector<int64_t> cuts_;
  const int64_t parts_;
  Numbers<T> x_, r_, p_, q_, best_;
  Numbers<double> totals_;
};

}  // namespace diffjax

#endif  // DIFFJAX_NATIVE_CG_H_
