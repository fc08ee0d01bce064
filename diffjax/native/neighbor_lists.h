// Conversion of neighbour lists to the compressed rows of a graph.

#ifndef DIFFJAX_NATIVE_NEIGHBOR_LISTS_H_
#define DIFFJAX_NATIVE_NEIGHBOR_LISTS_H_

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
struct NeighborLists {
  const int32_t* indices;
  int64_t nodes, slots;
  // Index of the first of some entries that is a node, or -1; see find_node.h.
  int64_t (*find_node)(const int32_t* list, int64_t count, int32_t node);

  // Calls visit(slot, neighbor, reverse_slot) for each neighbour of `node` that has a
  // larger number and whose list has the node, at `reverse_slot`: each mutual pair is
  // visited once.
  template <typename Visit>
  void for_each_mutual(int64_t node, const Visit& visit) const {
    const int64_t first_slot = node * slots;
    for (int64_t slot = 0; slot < slots; ++slot) {
      if (slot + kAhead < slots)
        prefetch_list(node, indices[first_slot + slot + kAhead]);
      const int64_t neighbor = indices[first_slot + slot];
      if (neighbor <= node || neighbor >= nodes) continue;
      const int64_t reverse_slot =
          find_node(indices + neighbor * slots, slots, static_cast<int32_t>(node));
      if (reverse_slot >= 0) visit(slot, neighbor, reverse_slot);
    }
  }

 private:
  static constexpr int64_t kAhead = 2;

  // Prefetches the list of a later neighbour while the current one is searched.
  void prefetch_list(int64_t node, int64_t neighbor) const {
    if (neighbor <= node || neighbor >= nodes) return;
    const auto* list = reinterpret_cast<const char*>(indices + neighbor * slots);
    const int64_t bytes = slots * static_cast<int64_t>(sizeof(int32_t));
    for (int64_t byte = 0; byte < bytes; byte += 64) __builtin_prefetch(list + byte);
  }
};

// Calls body(node) for every node, on all threads.
template <typename Body>
void for_each_node(const NeighborLists& lists, Workers& workers, const Body& body) {
  constexpr int64_t kMinSlots = 1 << 14, kMaxParts = 256;
  const int64_t parts =
      std::clamp<int64_t>(lists.nodes * lists.slots / kMinSlots, 1,
                          std::max<int64_t>(std::min(kMaxParts, lists.nodes), 1));
  workers.for_each(parts, [&](int64_t part) {
    const int64_t last = lists.nodes * (part + 1) / parts;
    for (int64_t node = lists.nodes * part / parts; node < last; ++node) body(node);
  });
}

// Writes the slot of the node in the list of each neighbour, -1 if it is not in there.
inline void mutual_slots(const NeighborLists& lists, Workers& workers,
                         int32_t* reverse_slots) {
  for_each_node(lists, workers, [&](int64_t node) {
    std::fill_n(reverse_slots + node * lists.slots, lists.slots, -1);
  });
  for_each_node(lists, workers, [&](int64_t node) {
    lists.for_each_mutual(node, [&](int64_t slot, int64_t neighbor,
                                    int64_t reverse_slot) {
      // Both directions at once: no other pair writes either slot.
      reverse_slots[node * lists.slots + slot] = static_cast<int32_t>(reverse_slot);
      reverse_slots[neighbor * lists.slots + reverse_slot] = static_cast<int32_t>(slot);
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
    std::sort(entries.begin(), entries.end(),
              [](const Entry& a, const Entry& b) { return a.column < b.column; });
    for (int64_t entry = first; entry < last; ++entry) {
      columns_[entry] = entries[entry - first].column;
      weights_[entry] = entries[entry - first].weight;
    }
  }

 private:
  const Csr<T> rows_;
  int32_t* const columns_;
  T* const weights_;
};

// Writes the mutual neighbours of every node, whose slots are in `reverse_slots`, with
// the smaller of the two similarities.
template <typename T>
void mutual_rows(const NeighborLists& lists, const T* similarities,
                 const int32_t* reverse_slots, const RowWriter<T>& rows,
                 Workers& workers) {
  for_each_node(lists, workers, [&](int64_t node) {
    thread_local std::vector<typename RowWriter<T>::Entry> entries;
    entries.clear();
    for (int64_t slot = node * lists.slots; slot < (node + 1) * lists.slots; ++slot) {
      const int64_t neighbor = lists.indices[slot], reverse_slot = reverse_slots[slot];
      if (reverse_slot < 0 || reverse_slot >= lists.slots || neighbor < 0 ||
          neighbor >= lists.nodes) {
        continue;
      }
      const T similarity = similarities[slot];
      const T reverse_similarity = similarities[neighbor * lists.slots + reverse_slot];
      // Not std::min, which would lose a NaN.
      const T smaller = similarity <= reverse_similarity || std::isnan(similarity)
                            ? similarity
                            : reverse_similarity;
      entries.push_back({static_cast<int32_t>(neighbor), smaller});
    }
    rows.write(node, entries);
  });
}

// Writes the slots of every node that hold an edge: neither empty nor of weight 0.
template <typename T>
void compress_rows(const NeighborLists& lists, const T* weights,
                   const RowWriter<T>& rows, Workers& workers) {
  for_each_node(lists, workers, [&](int64_t node) {
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

#endif  // DIFFJAX_NATIVE_NEIGHBOR_LISTS_H_
