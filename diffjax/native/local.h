// Local diffusion on the nodes that a query reaches: its cost does not grow with n.

#ifndef DIFFJAX_NATIVE_LOCAL_H_
#define DIFFJAX_NATIVE_LOCAL_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "csr.h"
#include "huge_pages.h"

namespace diffjax {

// Limits of a local solve: at most `size` nodes, whose number doubles after every
// `steps_per_expansion` iterations, and `max_steps` after the last expansion.
template <typename T>
struct LocalLimits {
  int64_t size;
  int32_t steps_per_expansion;
  int32_t max_steps;
  T rtol_squared;
};

// Grows a vector to at least `count` numbers, keeping its content. It never shrinks, so
// that later queries reuse the memory.
template <typename Vector>
void ensure_size(Vector& numbers, int64_t count) {
  const int64_t old_size = static_cast<int64_t>(numbers.size());
  if (old_size < count) numbers.resize(std::max(2 * old_size, count));
}

// Numbers nodes 0, 1, 2, ... in the order of the first request. Its table is as long as
// the graph but allocated once: each query resets only the entries that it used.
class NodeSlots {
 public:
  void reset(int64_t count) {
    for (int32_t slot = 0; slot < count_; ++slot) table_[nodes_[slot]] = -1;
    count_ = 0;
    if (static_cast<int64_t>(table_.size()) < count) table_.resize(count, -1);
  }

  // Reserves memory for that many more requests.
  void reserve(int64_t count) { ensure_size(nodes_, count_ + count); }

  int32_t slot_of(int32_t node) {
    int32_t& slot = table_[node];
    // Written without a branch: whether a node is new can't be predicted.
    const bool is_new = slot < 0;
    slot = is_new ? count_ : slot;
    nodes_[count_] = node;
    count_ += is_new;
    return slot;
  }

  int32_t node(int32_t slot) const { return nodes_[slot]; }
  int32_t count() const { return count_; }

 private:
  std::vector<int32_t> table_, nodes_;
  int32_t count_ = 0;
};

// Solver of one query. The iteration is that of cg.h, restarted from the current
// solution whenever nodes join: the nodes outside with the largest residual, which is
// the score that the diffusion would bring them next.
//
// Members are nodes that the diffusion has reached: their rows of the graph are read
// once, and stored with slots for columns. Neighbours outside have slots as well.
//
// An object can solve one query after the other and reuses its memory.
template <typename T>
class LocalDiffusion {
 public:
  // Solves for `num_seeds` seeds, of which those below 0 are padding. Writes `size`
  // nodes in ascending order and their scores, padded with -1 and 0. Not inlined: the
  // caller's thread-local object would be looked up at every entry.
  __attribute__((noinline)) void solve(const Csr<T>& a, T alpha, LocalLimits<T> limits,
                                       int64_t num_seeds, const int32_t* seeds,
                                       const T* seed_values, int32_t* nodes, T* scores,
                                       T* residual, int32_t* num_steps) {
    a_ = a;
    alpha_ = alpha;
    limits_ = limits;
    clear();
    const T scale = start_from_seeds(num_seeds, seeds, seed_values);
    const double rhs_sq = squared_residual();
    const double threshold = static_cast<double>(limits_.rtol_squared) * rhs_sq;
    for (int64_t max_members = num_seeds; max_members < limits_.size;) {
      continue_solve(limits_.steps_per_expansion, threshold);
      flow_outside();
      max_members = std::min(2 * max_members, limits_.size);
      if (!expand_frontier(max_members)) break;
    }
    continue_solve(limits_.max_steps, threshold);
    const double outside_sq = flow_outside();
    const double resid_sq = squared_residual() + outside_sq;
    *residual = static_cast<T>(std::sqrt(resid_sq / (rhs_sq > 0 ? rhs_sq : 1)));
    *num_steps = num_steps_;
    write_result(scale, nodes, scores);
  }

 private:
  struct Candidate {
    T residual;
    int32_t node, slot;
  };

  // Ranks are 8 bits of the exponent and 3 of the mantissa of a positive float.
  static constexpr int kRankShift = 20;
  static constexpr int64_t kNumRanks = (int64_t{1} << (31 - kRankShift)) + 1;

  int64_t num_members() const { return static_cast<int64_t>(slot_of_member_.size()); }

  // Resets everything, also after a query that ran out of memory.
  void clear() {
    slots_.reset(a_.rows);
    num_steps_ = 0;
    starts_.assign(1, 0);
    for (auto* vector : {&outside_residual_, &x_, &r_, &q_, &y_}) vector->clear();
    for (auto* vector : {&member_of_slot_, &slot_of_member_}) vector->clear();
  }

  // Seeds join with values scaled to size 1: squares of small numbers underflow.
  T start_from_seeds(int64_t num_seeds, const int32_t* seeds, const T* seed_values) {
    T scale = 0;
    for (int64_t i = 0; i < num_seeds; ++i) {
      if (seeds[i] < 0 || seeds[i] >= a_.rows) continue;
      const T magnitude = std::abs(seed_values[i]);
      if (!(magnitude <= scale)) scale = std::isnan(scale) ? scale : magnitude;
    }
    const T divisor = scale > 0 ? scale : T{1};
    slots_.reserve(num_seeds);
    for (int64_t i = 0; i < num_seeds; ++i) {
      if (seeds[i] < 0 || seeds[i] >= a_.rows) continue;
      const int32_t slot = slots_.slot_of(seeds[i]);
      extend_to_slots();
      outside_residual_[slot] += seed_values[i] / divisor;
    }
    for (int32_t slot = 0, num_slots = slots_.count(); slot < num_slots; ++slot)
      add_member(slot, true);
    return scale;
  }

  // New slots are nodes outside, with residual 0.
  void extend_to_slots() {
    outside_residual_.resize(slots_.count(), 0);
    member_of_slot_.resize(slots_.count(), -1);
  }

  // Adds a member with score 0 and the residual that it had outside, y for a seed.
  void add_member(int32_t slot, bool is_seed = false) {
    const int32_t node = slots_.node(slot);
    member_of_slot_[slot] = static_cast<int32_t>(num_members());
    slot_of_member_.push_back(slot);
    x_.push_back(0);
    r_.push_back(outside_residual_[slot]);
    y_.push_back(is_seed ? outside_residual_[slot] : T{0});
    q_.push_back(0);
    const int64_t first = a_.start(node), last = std::max(first, a_.start(node + 1));
    const int64_t first_entry = starts_.back(), count = last - first;
    starts_.push_back(first_entry + count);
    ensure_size(columns_, first_entry + count);
    ensure_size(weights_, first_entry + count);
    slots_.reserve(count);
    for (int64_t i = 0; i < count; ++i) {
      columns_[first_entry + i] =
          slots_.slot_of(static_cast<int32_t>(a_.column(first + i)));
      weights_[first_entry + i] = a_.weights[first + i];
    }
    extend_to_slots();
  }

  // Adds the nodes outside with the largest residual, ties by node, until there are
  // `max_members` members. Returns whether any joined.
  bool expand_frontier(int64_t max_members) {
    const int64_t lowest = lowest_rank(max_members - num_members());
    candidates_.clear();
    for (int32_t slot = 0; slot < slots_.count(); ++slot) {
      if (rank(slot) >= lowest) {
        candidates_.push_back({outside_residual_[slot], slots_.node(slot), slot});
      }
    }
    const auto ranks_before = [](const Candidate& a, const Candidate& b) {
      if (a.residual != b.residual) return a.residual > b.residual;
      return a.node < b.node;
    };
    const int64_t num_candidates = static_cast<int64_t>(candidates_.size());
    const int64_t count =
        std::min(num_candidates, std::max<int64_t>(max_members - num_members(), 0));
    if (count < num_candidates) {
      const auto first = candidates_.begin();
      std::nth_element(first, first + count, candidates_.end(), ranks_before);
    }
    // In the order of the graph, so that adjacent rows are read one after the other.
    std::sort(candidates_.begin(), candidates_.begin() + count,
              [](const Candidate& a, const Candidate& b) { return a.node < b.node; });
    for (int64_t i = 0; i < count; ++i) {
      if (i + 1 < count) prefetch_row(candidates_[i + 1].node);
      add_member(candidates_[i].slot);
    }
    return count > 0;
  }

  // A coarse logarithm of the residual of a node outside; 0 for members and for a
  // residual of 0.
  int64_t rank(int32_t slot) const {
    const auto residual = static_cast<float>(outside_residual_[slot]);
    uint32_t bits;
    std::memcpy(&bits, &residual, sizeof(bits));
    const bool is_candidate = member_of_slot_[slot] < 0 && outside_residual_[slot] > 0;
    return is_candidate ? (bits >> kRankShift) + 1 : 0;
  }

  // The highest rank, at least 1, such that it and higher ranks have `count` nodes. It
  // preselects candidates, so that fewer numbers are sorted.
  int64_t lowest_rank(int64_t count) {
    ranks_.assign(kNumRanks, 0);
    for (int32_t slot = 0; slot < slots_.count(); ++slot) ++ranks_[rank(slot)];
    int64_t lowest = kNumRanks;
    while (lowest > 1 && count > 0) count -= ranks_[--lowest];
    return lowest;
  }

  // Prefetches the row of the next node, anywhere in memory, while one is read.
  void prefetch_row(int32_t node) const {
    for (int64_t entry = a_.start(node); entry < a_.start(node + 1);
         entry += 64 / sizeof(T)) {
      __builtin_prefetch(a_.indices + entry);
      __builtin_prefetch(a_.weights + entry);
    }
  }

  double squared_residual() const {
    double sum = 0;
    for (const T r : r_) sum += double{r} * double{r};
    return sum;
  }

  // Computes the residual outside, alpha S f, and returns the sum of its squares.
  // Recomputes that of the members, y - (I - alpha S) f, from which the recurrence
  // drifts away.
  double flow_outside() {
    std::fill(outside_residual_.begin(), outside_residual_.end(), T{0});
    for (int64_t i = 0; i < num_members(); ++i) {
      const T scaled_score = alpha_ * x_[i];
      for (int64_t entry = starts_[i]; entry < starts_[i + 1]; ++entry) {
        outside_residual_[columns_[entry]] += weights_[entry] * scaled_score;
      }
    }
    for (int64_t i = 0; i < num_members(); ++i) {
      r_[i] = y_[i] - x_[i] + outside_residual_[slot_of_member_[i]];
    }
    double sum = 0;
    for (size_t slot = 0; slot < outside_residual_.size(); ++slot) {
      if (member_of_slot_[slot] < 0)
        sum += double{outside_residual_[slot]} * double{outside_residual_[slot]};
    }
    return sum;
  }

  // Cuts out rows and columns of the members: the direction is 0 at other nodes.
  void restrict_to_members() {
    inner_starts_.resize(num_members() + 1);
    ensure_size(inner_columns_, starts_.back());
    ensure_size(inner_weights_, starts_.back());
    int64_t num_inner = 0;
    for (int64_t i = 0; i < num_members(); ++i) {
      inner_starts_[i] = num_inner;
      for (int64_t entry = starts_[i]; entry < starts_[i + 1]; ++entry) {
        // Written without a branch: whether it is a member can't be predicted.
        const int32_t column = member_of_slot_[columns_[entry]];
        inner_columns_[num_inner] = column;
        inner_weights_[num_inner] = weights_[entry];
        num_inner += column >= 0;
      }
    }
    inner_starts_[num_members()] = num_inner;
  }

  T multiply_row(int64_t i) const {
    T sums[4] = {};
    int64_t entry = inner_starts_[i];
    const int64_t last = inner_starts_[i + 1];
    // Several sums, because additions to one would wait for each other.
    for (; entry + 4 <= last; entry += 4) {
      for (int j = 0; j < 4; ++j) {
        sums[j] += inner_weights_[entry + j] * p_[inner_columns_[entry + j]];
      }
    }
    for (; entry < last; ++entry) {
      sums[0] += inner_weights_[entry] * p_[inner_columns_[entry]];
    }
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }

  // Conjugate gradient on the members, with scores of 0 outside.
  void continue_solve(int32_t max_steps, double threshold) {
    double resid_sq = squared_residual();
    restrict_to_members();
    p_ = r_;
    for (int32_t count = 0; count < max_steps && resid_sq > threshold; ++count) {
      double curvature = 0;
      for (int64_t i = 0; i < num_members(); ++i) {
        q_[i] = p_[i] - alpha_ * multiply_row(i);
        curvature += double{p_[i]} * double{q_[i]};
      }
      ++num_steps_;
      if (curvature < std::numeric_limits<T>::min()) break;
      const T step_length = static_cast<T>(resid_sq / curvature);
      double new_sq = 0;
      for (int64_t i = 0; i < num_members(); ++i) {
        x_[i] += step_length * p_[i];
        r_[i] -= step_length * q_[i];
        new_sq += double{r_[i]} * double{r_[i]};
      }
      const T turn = static_cast<T>(new_sq / resid_sq);
      for (int64_t i = 0; i < num_members(); ++i) p_[i] = r_[i] + turn * p_[i];
      resid_sq = new_sq;
    }
  }

  void write_result(T scale, int32_t* nodes, T* scores) const {
    std::vector<std::pair<int32_t, T>> solution;
    solution.reserve(num_members());
    for (int64_t i = 0; i < num_members(); ++i) {
      solution.emplace_back(slots_.node(slot_of_member_[i]), x_[i] * scale);
    }
    std::sort(solution.begin(), solution.end());
    for (int64_t i = 0; i < limits_.size; ++i) {
      const bool is_node = i < num_members();
      nodes[i] = is_node ? solution[i].first : -1;
      scores[i] = is_node ? solution[i].second : T{0};
    }
  }

  Csr<T> a_{};
  T alpha_{};
  LocalLimits<T> limits_{};
  NodeSlots slots_;
  int32_t num_steps_ = 0;
  std::vector<Candidate> candidates_;
  std::vector<int32_t> ranks_;
  // By slot: the residual outside; the number of the member, below 0 if it is none.
  std::vector<T> outside_residual_;
  std::vector<int32_t> member_of_slot_;
  // By member: its slot, score, residual, direction, product with the direction,
  // right-hand side.
  std::vector<int32_t> slot_of_member_;
  std::vector<T> x_, r_, p_, q_, y_;
  // Rows of the members: all entries, and the entries between members.
  std::vector<int64_t> starts_, inner_starts_;
  PagedVector<int32_t> columns_, inner_columns_;
  PagedVector<T> weights_, inner_weights_;
};

}  // namespace diffjax

#endif  // DIFFJAX_NATIVE_LOCAL_H_
