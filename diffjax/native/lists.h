// Conversion of neighbour lists to the compressed rows of a graph.

#ifndef DIFFJAX_NATIVE_LISTS_H_
#define DIFFJAX_NATIVE_LISTS_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <vector>

#include "csr.h"
#include "parallel.h"

namespace diffjax {

// Neighbour lists: row i has the neighbours of node i, in any order; a number below 0
// is an empty slot.
struct Lists {
  const int32_t* indices;
  int64_t nodes, slots;
  // Index of the first of some entries that is a node, or -1; see find.h.
  int64_t (*find)(const int32_t* places, int64_t count, int32_t node);

  // Calls found(slot, other, back) for each neighbour of `node` that has a larger
  // number and whose list has the node, at `back`: each mutual pair is visited once.
  template <typename Found>
  void each_mutual(int64_t node, const Found& found) const {
    const int64_t base = node * slots;
    for (int64_t slot = 0; slot < slots; ++slot) {
      if (slot + kAhead < slots) fetch(node, indices[base + slot + kAhead]);
      const int64_t other = indices[base + slot];
      if (other <= node || other >= nodes) continue;
      const int64_t back =
          find(indices + other * slots, slots, static_cast<int32_t>(node));
      if (back >= 0) found(slot, other, back);
    }
  }

 private:
  static constexpr int64_t kAhead = 2;

  // Prefetches the list of a later neighbour while the current one is searched.
  void fetch(int64_t node, int64_t other) const {
    if (other <= node || other >= nodes) return;
    const auto* list = reinterpret_cast<const char*>(indices + other * slots);
    const int64_t bytes = slots * static_cast<int64_t>(sizeof(int32_t));
    for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(list + byte);
  }
};

// Calls body(node) for every node, on all threads.
template <typename Body>
void each_node(const Lists& lists, Workers& workers, const Body& body) {
  constexpr int64_t kLeastSlots = 1 << 14, kMostParts = 256;
  const int64_t parts = std::clamp<int64_t>(
      lists.nodes * lists.slots / kLeastSlots, 1,
      std::max<int64_t>(std::min(kMostParts, lists.nodes), 1));
  workers.for_each(parts, [&](int64_t part) {
    const int64_t last = lists.nodes * (part + 1) / parts;
    for (int64_t node = lists.nodes * part / parts; node < last; ++node) body(node);
  });
}

// Writes the slot of the node in the list of each neighbour, -1 if it is not in there.
inline void mutual_slots(const Lists& lists, Workers& workers, int32_t* back) {
  each_node(lists, workers, [&](int64_t node) {
    std::fill_n(back + node * lists.slots, lists.slots, -1);
  });
  each_node(lists, workers, [&](int64_t node) {
    lists.each_mutual(node, [&](int64_t slot, int64_t other, int64_t where) {
      // Both directions at once: no other pair writes either slot.
      back[node * lists.slots + slot] = static_cast<int32_t>(where);
      back[other * lists.slots + where] = static_cast<int32_t>(slot);
    });
  });
}

// Writes compressed rows, each sorted by column.
template <typename T>
class RowWriter {
 public:
  // `rows` has the starts of the rows whose entries are written.
  RowWriter(const Csr<T>& rows, int32_t* columns, T* weights)
      : rows_(rows), columns_(columns), weights_(weights) {}

  struct Entry {
    int32_t column;
    T weight;
  };

  // Throws if the starts do not match the entries, so that no write is out of bounds.
  void write(int64_t row, std::vector<Entry>& entries) const {
    const int64_t first = rows_.start(row), last = rows_.start(row + 1);
    if (last - first != static_cast<int64_t>(entries.size())) {
      throw std::invalid_argument("starts must be those of the entries");
    }
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      return a.column < b.column;
    });
    for (int64_t at = first; at < last; ++at) {
      columns_[at] = entries[at - first].column;
      weights_[at] = entries[at - first].weight;
    }
  }

 private:
  const Csr<T> rows_;
  int32_t* const columns_;
  T* const weights_;
};

// Writes the mutual neighbours of every node, whose slots are in `back`, with the
// smaller of the two similarities.
template <typename T>
void mutual_rows(const Lists& lists, const T* similarities, const int32_t* back,
                 const RowWriter<T>& rows, Workers& workers) {
  each_node(lists, workers, [&](int64_t node) {
    thread_local std::vector<typename RowWriter<T>::Entry> entries;
    entries.clear();
    for (int64_t slot = node * lists.slots; slot < (node + 1) * lists.slots; ++slot) {
      const int64_t other = lists.indices[slot], where = back[slot];
      if (where < 0 || where >= lists.slots || other < 0 || other >= lists.nodes) {
        continue;
      }
      const T own = similarities[slot];
      const T theirs = similarities[other * lists.slots + where];
      // Not std::min, which would lose a NaN.
      const T smaller = own <= theirs || std::isnan(own) ? own : theirs;
      entries.push_back({static_cast<int32_t>(other), smaller});
    }
    rows.write(node, entries);
  });
}

// Writes the slots of every node that hold an edge: neither empty nor of weight 0.
template <typename T>
void compress_rows(const Lists& lists, const T* weights, const RowWriter<T>& rows,
                   Workers& workers) {
  each_node(lists, workers, [&](int64_t node) {
    thread_local std::vector<typename RowWriter<T>::Entry> entries;
    entries.clear();
    for (int64_t slot = node * lists.slots; slot < (node + 1) * lists.slots; ++slot) {
      if (lists.indices[slot] < 0 || weights[slot] == 0) continue;
      entries.push_back({lists.indices[slot], weights[slot]});
    }
    rows.write(node, entries);
  });
}

}  // namespace diffjax

#endif  // DIFFJAX_NATIVE_LISTS_H_
