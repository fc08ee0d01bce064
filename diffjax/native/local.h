// Diffusion on the nodes that a query reaches: the work does not depend on the graph.

#ifndef DIFFJAX_NATIVE_LOCAL_H_
#define DIFFJAX_NATIVE_LOCAL_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "csr.h"

namespace diffjax {

// How far a query goes: at most `most_nodes` nodes, which are twice as many after every
// `grow_steps` iterations, and `most_steps` iterations once they are all there.
template <typename T>
struct Reach {
  int64_t most_nodes;
  int32_t grow_steps;
  int32_t most_steps;
  T rtol_squared;
};

// Numbers nodes 0, 1, 2, ... in the order in which they are asked for. Its table is as
// long as the graph, but made once: a query cleans up what it used.
class Slots {
 public:
  void begin(int64_t nodes) {
    for (const int32_t node : nodes_) table_[node] = -1;
    nodes_.clear();
    if (static_cast<int64_t>(table_.size()) < nodes) table_.resize(nodes, -1);
  }

  // The number of a node, and whether it is new.
  std::pair<int32_t, bool> find(int32_t node) {
    int32_t& slot = table_[node];
    if (slot >= 0) return {slot, false};
    slot = count();
    nodes_.push_back(node);
    return {slot, true};
  }

  int32_t node(int32_t slot) const { return nodes_[slot]; }
  int32_t count() const { return static_cast<int32_t>(nodes_.size()); }

 private:
  std::vector<int32_t> table_, nodes_;
};

// One query. The iteration is that of cg.h, started again from where it was whenever
// nodes join. Those are the nodes outside with the largest residual, which is what the
// diffusion would bring them next.
//
// Members are nodes that the diffusion has reached: their rows of the graph are read,
// once, and held with slots for columns. Slots also stand for nodes outside beside them.
//
// It may be used for one query after the other, whose memory is then there already.
template <typename T>
class LocalDiffusion {
 public:
  // Solves for `places` seeds, of which those below 0 are empty. Answers go to
  // `most_nodes` places, ordered by node, and are -1 and 0 where there are fewer.
  void solve(const Csr<T>& a, T alpha, Reach<T> reach, int64_t places,
             const int32_t* seeds, const T* values, int32_t* nodes, T* value,
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

  int64_t members() const { return static_cast<int64_t>(members_.size()); }

  // Also what a query that ran out of memory left behind.
  void clear() {
    slots_.begin(a_.rows);
    steps_ = 0;
    starts_.assign(1, 0);
    for (auto* each : {&outside_, &x_, &r_, &q_, &y_, &weights_}) each->clear();
    for (auto* each : {&member_, &members_, &columns_}) each->clear();
  }

  // Seeds join with columns of size 1: squares of small numbers would vanish.
  T begin(int64_t places, const int32_t* seeds, const T* values) {
    T size = 0;
    for (int64_t i = 0; i < places; ++i) {
      if (seeds[i] < 0 || seeds[i] >= a_.rows) continue;
      const T own = std::abs(values[i]);
      if (!(own <= size)) size = std::isnan(size) ? size : own;
    }
    const T safe = size > 0 ? size : T{1};
    for (int64_t i = 0; i < places; ++i) {
      if (seeds[i] < 0 || seeds[i] >= a_.rows) continue;
      const int32_t slot = slot_of(seeds[i]);
      outside_[slot] += values[i] / safe;
    }
    for (int32_t slot = 0, seen = slots_.count(); slot < seen; ++slot) join(slot, true);
    return size;
  }

  int32_t slot_of(int32_t node) {
    const auto [slot, is_new] = slots_.find(node);
    if (is_new) {
      outside_.push_back(0);
      member_.push_back(-1);
    }
    return slot;
  }

  // Starts at 0, with the residual that it had outside, which of a seed is all of y.
  void join(int32_t slot, bool starts_here = false) {
    const int32_t node = slots_.node(slot);
    member_[slot] = static_cast<int32_t>(members());
    members_.push_back(slot);
    x_.push_back(0);
    r_.push_back(outside_[slot]);
    y_.push_back(starts_here ? outside_[slot] : T{0});
    q_.push_back(0);
    const int64_t first = a_.start(node), last = std::max(first, a_.start(node + 1));
    const size_t before = columns_.size();
    columns_.resize(before + (last - first));
    for (int64_t entry = first; entry < last; ++entry) {
      columns_[before + entry - first] =
          slot_of(static_cast<int32_t>(a_.column(entry)));
    }
    weights_.insert(weights_.end(), a_.weights + first, a_.weights + last);
    starts_.push_back(static_cast<int64_t>(columns_.size()));
  }

  // Nodes outside with the largest residual join, until there are `most`; equal ones
  // by node. Whether there were any.
  bool grow(int64_t most) {
    candidates_.clear();
    for (int32_t slot = 0; slot < slots_.count(); ++slot) {
      if (member_[slot] < 0 && outside_[slot] > 0) {
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
    // In the order of the graph, so that rows that lie side by side are read so.
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

  // The row of the next one, from anywhere in memory, while this one's is read.
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

  // The residual outside, alpha S f, and the sum of its squares; that inside anew,
  // y - (1 - alpha S) f, from which what the iteration carries along drifts away.
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

  // Rows and columns of the members: elsewhere the direction is 0.
  void cut() {
    inner_starts_.resize(members() + 1);
    inner_columns_.resize(columns_.size());
    inner_weights_.resize(columns_.size());
    int64_t kept = 0;
    for (int64_t i = 0; i < members(); ++i) {
      inner_starts_[i] = kept;
      for (int64_t entry = starts_[i]; entry < starts_[i + 1]; ++entry) {
        // Written in any case: whether it stays can't be foreseen.
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
    // Several sums, because one would wait for itself at every entry.
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

  // Conjugate gradient on the members, whatever is outside being 0.
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
  // By slot: the residual outside; which member it is, below 0 for none.
  std::vector<T> outside_;
  std::vector<int32_t> member_;
  // By member: its slot, score, residual, direction, product with the direction,
  // right-hand side.
  std::vector<int32_t> members_;
  std::vector<T> x_, r_, p_, q_, y_;
  // Rows of the members: all of them, and what of them is inside.
  std::vector<int64_t> starts_, inner_starts_;
  std::vector<int32_t> columns_, inner_columns_;
  std::vector<T> weights_, inner_weights_;
};

}  // namespace diffjax

#endif  // DIFFJAX_NATIVE_LOCAL_H_
