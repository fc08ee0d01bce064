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

// Numbers nodes 0, 1, 2, ... in the order in which they are asked for.
class Slots {
 public:
  Slots() : table_(1 << 12, Entry{-1, -1}) {}

  // The number of a node, and whether it is new.
  std::pair<int32_t, bool> find(int32_t node) {
    if (2 * (nodes_.size() + 1) > table_.size()) enlarge();
    Entry& entry = place(node);
    if (entry.node == node) return {entry.slot, false};
    entry = {node, static_cast<int32_t>(nodes_.size())};
    nodes_.push_back(node);
    return {entry.slot, true};
  }

  int32_t node(int32_t slot) const { return nodes_[slot]; }
  int32_t count() const { return static_cast<int32_t>(nodes_.size()); }

 private:
  struct Entry {
    int32_t node, slot;
  };

  Entry& place(int32_t node) {
    const size_t mask = table_.size() - 1;
    // Neighbours often have neighbouring numbers: the product sends them far apart.
    size_t at = (static_cast<uint32_t>(node) * uint32_t{2654435769u}) >> 7;
    for (;; ++at) {
      Entry& entry = table_[at & mask];
      if (entry.node == node || entry.node < 0) return entry;
    }
  }

  void enlarge() {
    table_.assign(2 * table_.size(), Entry{-1, -1});
    for (int32_t slot = 0; slot < count(); ++slot) {
      place(nodes_[slot]) = {nodes_[slot], slot};
    }
  }

  std::vector<Entry> table_;
  std::vector<int32_t> nodes_;
};

// One query. The iteration is that of cg.h, started again from where it was whenever
// nodes join. Those are the nodes outside with the largest residual, which is what the
// diffusion would bring them next.
//
// Members are nodes that the diffusion has reached: their rows of the graph are read,
// once, and held with slots for columns. Slots also stand for nodes outside beside them.
template <typename T>
class LocalDiffusion {
 public:
  LocalDiffusion(const Csr<T>& a, T alpha, Reach<T> reach)
      : a_(a), alpha_(alpha), reach_(reach), starts_(1, 0) {}

  // Solves for `places` seeds, of which those below 0 are empty. Answers go to
  // `most_nodes` places, ordered by node, and are -1 and 0 where there are fewer.
  void solve(int64_t places, const int32_t* seeds, const T* values, int32_t* nodes,
             T* value, T* residual, int32_t* steps) {
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
  int64_t members() const { return static_cast<int64_t>(members_.size()); }

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
      p_.push_back(0);
      outside_.push_back(0);
      inside_.push_back(0);
    }
    return slot;
  }

  // Starts at 0, with the residual that it had outside, which of a seed is all of y.
  void join(int32_t slot, bool starts_here = false) {
    const int32_t node = slots_.node(slot);
    members_.push_back(slot);
    x_.push_back(0);
    r_.push_back(outside_[slot]);
    y_.push_back(starts_here ? outside_[slot] : T{0});
    q_.push_back(0);
    inside_[slot] = 1;
    for (int64_t entry = a_.start(node); entry < a_.start(node + 1); ++entry) {
      columns_.push_back(slot_of(static_cast<int32_t>(a_.column(entry))));
      weights_.push_back(a_.weights[entry]);
    }
    starts_.push_back(static_cast<int64_t>(columns_.size()));
  }

  // Nodes outside with the largest residual join, until there are `most`; equal ones
  // by node. Whether there were any.
  bool grow(int64_t most) {
    std::vector<int32_t> found;
    for (int32_t slot = 0; slot < slots_.count(); ++slot) {
      if (!inside_[slot] && outside_[slot] > 0) found.push_back(slot);
    }
    const auto before = [this](int32_t one, int32_t other) {
      if (outside_[one] != outside_[other]) return outside_[one] > outside_[other];
      return slots_.node(one) < slots_.node(other);
    };
    const int64_t count =
        std::min<int64_t>(found.size(), std::max<int64_t>(most - members(), 0));
    if (count < static_cast<int64_t>(found.size())) {
      std::nth_element(found.begin(), found.begin() + count, found.end(), before);
    }
    for (int64_t i = 0; i < count; ++i) join(found[i]);
    return count > 0;
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
      if (!inside_[slot]) sum += double{outside_[slot]} * double{outside_[slot]};
    }
    return sum;
  }

  T multiply_row(int64_t i) const {
    T sums[4] = {};
    int64_t entry = starts_[i];
    const int64_t last = starts_[i + 1];
    // Several sums, because one would wait for itself at every entry.
    for (; entry + 4 <= last; entry += 4) {
      for (int j = 0; j < 4; ++j) {
        sums[j] += weights_[entry + j] * p_[columns_[entry + j]];
      }
    }
    for (; entry < last; ++entry) sums[0] += weights_[entry] * p_[columns_[entry]];
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }

  // Conjugate gradient on the members, whatever is outside being 0.
  void iterate(int32_t most_steps, double goal) {
    double left = squares();
    for (int64_t i = 0; i < members(); ++i) p_[members_[i]] = r_[i];
    for (int32_t taken = 0; taken < most_steps && left > goal; ++taken) {
      double curvature = 0;
      for (int64_t i = 0; i < members(); ++i) {
        const T own = p_[members_[i]];
        q_[i] = own - alpha_ * multiply_row(i);
        curvature += double{own} * double{q_[i]};
      }
      ++steps_;
      if (curvature < std::numeric_limits<T>::min()) break;
      const T step = static_cast<T>(left / curvature);
      double now = 0;
      for (int64_t i = 0; i < members(); ++i) {
        x_[i] += step * p_[members_[i]];
        r_[i] -= step * q_[i];
        now += double{r_[i]} * double{r_[i]};
      }
      const T turn = static_cast<T>(now / left);
      for (int64_t i = 0; i < members(); ++i) {
        T& own = p_[members_[i]];
        own = r_[i] + turn * own;
      }
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

  const Csr<T> a_;
  const T alpha_;
  const Reach<T> reach_;
  Slots slots_;
  int32_t steps_ = 0;
  // By slot: the direction, 0 outside; the residual outside; whether it is a member.
  std::vector<T> p_, outside_;
  std::vector<char> inside_;
  // By member: its slot, score, residual, product with the direction, right-hand side.
  std::vector<int32_t> members_;
  std::vector<T> x_, r_, q_, y_;
  // Rows of the members.
  std::vector<int64_t> starts_;
  std::vector<int32_t> columns_;
  std::vector<T> weights_;
};

}  // namespace diffjax

#endif  // DIFFJAX_NATIVE_LOCAL_H_
