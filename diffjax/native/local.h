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
#include "numbers.h"

namespace diffjax {

// Limits of a local solve: at most `most_nodes` nodes, whose number doubles after every
// `grow_steps` iterations, and `most_steps` iterations after the last expansion.
template <typename T>
struct Reach {
  int64_t most_nodes;
  int32_t grow_steps;
  int32_t most_steps;
  T rtol_squared;
};

// Grows a vector to at least `count` numbers, keeping its content. It never shrinks, so
// that later queries reuse the memory.
template <typename Vector>
void make_room(Vector& numbers, int64_t count) {
  const int64_t there = static_cast<int64_t>(numbers.size());
  if (there < count) numbers.resize(std::max(2 * there, count));
}

// Numbers nodes 0, 1, 2, ... in the order of the first request. Its table is as long as
// the graph but allocated once: each query resets only the entries that it used.
class Slots {
 public:
  void begin(int64_t nodes) {
    for (int32_t slot = 0; slot < count_; ++slot) table_[nodes_[slot]] = -1;
    count_ = 0;
    if (static_cast<int64_t>(table_.size()) < nodes) table_.resize(nodes, -1);
  }

  // Reserves memory for that many more requests.
  void expect(int64_t nodes) { make_room(nodes_, count_ + nodes); }

  int32_t find(int32_t node) {
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
  // Solves for `places` seeds, of which those below 0 are padding. Writes `most_nodes`
  // nodes in ascending order and their values, padded with -1 and 0. Not inlined: the
  // caller's thread-local object would be looked up at every entry.
  __attribute__((noinline)) void solve(const Csr<T>& a, T alpha, Reach<T> reach,
                                       int64_t places, const int32_t* seeds,
                                       const T* values, int32_t* nodes, T* value,
                                       T* residual, int32_t* steps) {
    a_ = a;
    alpha_ = alpha;
    reach_ = reach;
    clear();
    const T size = begin(places, seeds, values);
    const double start = squares();
    const double goal = static_cast<double>(reach_.rtol_squared) * start;
    for (int64_t most = places; most < reach_.most_nodes;) {
      iterate(reach_.grow_steps, goal);
      spread();
      most = std::min(2 * most, reach_.most_nodes);
      if (!grow(most)) break;
    }
    iterate(reach_.most_steps, goal);
    const double outside = spread();
    const double left = squares() + outside;
    *residual = static_cast<T>(std::sqrt(left / (start > 0 ? start : 1)));
    *steps = steps_;
    finish(size, nodes, value);
  }

 private:
  struct Candidate {
    T residual;
    int32_t node, slot;
  };

  // Ranks are 8 bits of the exponent and 3 of the mantissa of a positive float.
  static constexpr int kRankShift = 20;
  static constexpr int64_t kRanks = (int64_t{1} << (31 - kRankShift)) + 1;

  int64_t members() const { return static_cast<int64_t>(members_.size()); }

  // Resets everything, also after a query that ran out of memory.
  void clear() {
    slots_.begin(a_.rows);
    steps_ = 0;
    starts_.assign(1, 0);
    for (auto* each : {&outside_, &x_, &r_, &q_, &y_}) each->clear();
    for (auto* each : {&member_, &members_}) each->clear();
  }

  // Seeds join with values scaled to size 1: squares of small numbers underflow.
  T begin(int64_t places, const int32_t* seeds, const T* values) {
    T size = 0;
    for (int64_t i = 0; i < places; ++i) {
      if (seeds[i] < 0 || seeds[i] >= a_.rows) continue;
      const T own = std::abs(values[i]);
      if (!(own <= size)) size = std::isnan(size) ? size : own;
    }
    const T safe = size > 0 ? size : T{1};
    slots_.expect(places);
    for (int64_t i = 0; i < places; ++i) {
      if (seeds[i] < 0 || seeds[i] >= a_.rows) continue;
      const int32_t slot = slots_.find(seeds[i]);
      cover();
      outside_[slot] += values[i] / safe;
    }
    for (int32_t slot = 0, seen = slots_.count(); slot < seen; ++slot) join(slot, true);
    return size;
  }

  // New slots are nodes outside, with residual 0.
  void cover() {
    outside_.resize(slots_.count(), 0);
    member_.resize(slots_.count(), -1);
  }

  // Adds a member with score 0 and the residual that it had outside, y for a seed.
  void join(int32_t slot, bool starts_here = false) {
    const int32_t node = slots_.node(slot);
    member_[slot] = static_cast<int32_t>(members());
    members_.push_back(slot);
    x_.push_back(0);
    r_.push_back(outside_[slot]);
    y_.push_back(starts_here ? outside_[slot] : T{0});
    q_.push_back(0);
    const int64_t first = a_.start(node), last = std::max(first, a_.start(node + 1));
    const int64_t before = starts_.back(), count = last - first;
    starts_.push_back(before + count);
    make_room(columns_, before + count);
    make_room(weights_, before + count);
    slots_.expect(count);
    for (int64_t i = 0; i < count; ++i) {
      columns_[before + i] = slots_.find(static_cast<int32_t>(a_.column(first + i)));
      weights_[before + i] = a_.weights[first + i];
    }
    cover();
  }

  // Adds the nodes outside with the largest residual, ties by node, until there are
  // `most` members. Returns whether any joined.
  bool grow(int64_t most) {
    const int64_t least = least_rank(most - members());
    candidates_.clear();
    for (int32_t slot = 0; slot < slots_.count(); ++slot) {
      if (rank(slot) >= least) {
        candidates_.push_back({outside_[slot], slots_.node(slot), slot});
      }
    }
    const auto before = [](const Candidate& one, const Candidate& other) {
      if (one.residual != other.residual) return one.residual > other.residual;
      return one.node < other.node;
    };
    const int64_t there = static_cast<int64_t>(candidates_.size());
    const int64_t count = std::min(there, std::max<int64_t>(most - members(), 0));
    if (count < there) {
      const auto first = candidates_.begin();
      std::nth_element(first, first + count, candidates_.end(), before);
    }
    // In the order of the graph, so that adjacent rows are read one after the other.
    std::sort(candidates_.begin(), candidates_.begin() + count,
              [](const Candidate& one, const Candidate& other) {
                return one.node < other.node;
              });
    for (int64_t i = 0; i < count; ++i) {
      if (i + 1 < count) fetch(candidates_[i + 1].node);
      join(candidates_[i].slot);
    }
    return count > 0;
  }

  // A coarse logarithm of the residual of a node outside; 0 for members and for a
  // residual of 0.
  int64_t rank(int32_t slot) const {
    const auto residual = static_cast<float>(outside_[slot]);
    uint32_t bits;
    std::memcpy(&bits, &residual, sizeof(bits));
    const bool waits = member_[slot] < 0 && outside_[slot] > 0;
    return waits ? (bits >> kRankShift) + 1 : 0;
  }

  // The highest rank, at least 1, such that it and higher ranks have `count` nodes. It
  // preselects candidates, so that fewer numbers are sorted.
  int64_t least_rank(int64_t count) {
    ranks_.assign(kRanks, 0);
    for (int32_t slot = 0; slot < slots_.count(); ++slot) ++ranks_[rank(slot)];
    int64_t least = kRanks;
    while (least > 1 && count > 0) count -= ranks_[--least];
    return least;
  }

  // Prefetches the row of the next node, anywhere in memory, while one is read.
  void fetch(int32_t node) const {
    for (int64_t at = a_.start(node); at < a_.start(node + 1); at += 64 / sizeof(T)) {
      __builtin_prefetch(a_.indices + at);
      __builtin_prefetch(a_.weights + at);
    }
  }

  double squares() const {
    double sum = 0;
    for (const T r : r_) sum += double{r} * double{r};
    return sum;
  }

  // Computes the residual outside, alpha S f, and returns the sum of its squares.
  // Recomputes that of the members, y - (I - alpha S) f, from which the recurrence
  // drifts away.
  double spread() {
    std::fill(outside_.begin(), outside_.end(), T{0});
    for (int64_t i = 0; i < members(); ++i) {
      const T own = alpha_ * x_[i];
      for (int64_t entry = starts_[i]; entry < starts_[i + 1]; ++entry) {
        outside_[columns_[entry]] += weights_[entry] * own;
      }
    }
    for (int64_t i = 0; i < members(); ++i) {
      r_[i] = y_[i] - x_[i] + outside_[members_[i]];
    }
    double sum = 0;
    for (size_t slot = 0; slot < outside_.size(); ++slot) {
      if (member_[slot] < 0) sum += double{outside_[slot]} * double{outside_[slot]};
    }
    return sum;
  }

  // Cuts out rows and columns of the members: the direction is 0 at other nodes.
  void cut() {
    inner_starts_.resize(members() + 1);
    make_room(inner_columns_, starts_.back());
    make_room(inner_weights_, starts_.back());
    int64_t kept = 0;
    for (int64_t i = 0; i < members(); ++i) {
      inner_starts_[i] = kept;
      for (int64_t entry = starts_[i]; entry < starts_[i + 1]; ++entry) {
        // Written without a branch: whether it is a member can't be predicted.
        const int32_t column = member_[columns_[entry]];
        inner_columns_[kept] = column;
        inner_weights_[kept] = weights_[entry];
        kept += column >= 0;
      }
    }
    inner_starts_[members()] = kept;
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
  void iterate(int32_t most_steps, double goal) {
    double left = squares();
    cut();
    p_ = r_;
    for (int32_t taken = 0; taken < most_steps && left > goal; ++taken) {
      double curvature = 0;
      for (int64_t i = 0; i < members(); ++i) {
        q_[i] = p_[i] - alpha_ * multiply_row(i);
        curvature += double{p_[i]} * double{q_[i]};
      }
      ++steps_;
      if (curvature < std::numeric_limits<T>::min()) break;
      const T step = static_cast<T>(left / curvature);
      double now = 0;
      for (int64_t i = 0; i < members(); ++i) {
        x_[i] += step * p_[i];
        r_[i] -= step * q_[i];
        now += double{r_[i]} * double{r_[i]};
      }
      const T turn = static_cast<T>(now / left);
      for (int64_t i = 0; i < members(); ++i) p_[i] = r_[i] + turn * p_[i];
      left = now;
    }
  }

  void finish(T size, int32_t* nodes, T* value) const {
    std::vector<std::pair<int32_t, T>> found;
    found.reserve(members());
    for (int64_t i = 0; i < members(); ++i) {
      found.emplace_back(slots_.node(members_[i]), x_[i] * size);
    }
    std::sort(found.begin(), found.end());
    for (int64_t i = 0; i < reach_.most_nodes; ++i) {
      const bool here = i < members();
      nodes[i] = here ? found[i].first : -1;
      value[i] = here ? found[i].second : T{0};
    }
  }

  Csr<T> a_{};
  T alpha_{};
  Reach<T> reach_{};
  Slots slots_;
  int32_t steps_ = 0;
  std::vector<Candidate> candidates_;
  std::vector<int32_t> ranks_;
  // By slot: the residual outside; the number of the member, below 0 if it is none.
  std::vector<T> outside_;
  std::vector<int32_t> member_;
  // By member: its slot, score, residual, direction, product with the direction,
  // right-hand side.
  std::vector<int32_t> members_;
  std::vector<T> x_, r_, p_, q_, y_;
  // Rows of the members: all entries, and the entries between members.
  std::vector<int64_t> starts_, inner_starts_;
  PagedVector<int32_t> columns_, inner_columns_;
  PagedVector<T> weights_, inner_weights_;
};

}  // namespace diffjax

#endif  // DIFFJAX_NATIVE_LOCAL_H_
