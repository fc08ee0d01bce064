// Linear search in a list. Included once for every instruction set, as rows.h is, hence
// no include guard.

namespace diffjax::DIFFJAX_ISA {

// Index of the first of `count` entries that is `node`, or -1.
DIFFJAX_TARGET inline int64_t find_node(const int32_t* list, int64_t count,
                                        int32_t node) {
  constexpr int64_t kLanes = DIFFJAX_BYTES / sizeof(int32_t), kStep = 4 * kLanes;
  typedef int32_t Vector
      __attribute__((vector_size(DIFFJAX_BYTES), aligned(alignof(int32_t)), may_alias));
  int64_t position = 0;
  // Steps of several vectors without a branch, up to the step that contains the node.
  for (; position + kStep <= count; position += kStep) {
    const auto* vectors = reinterpret_cast<const Vector*>(list + position);
    const Vector is_node = (vectors[0] == node) | (vectors[1] == node) |
                           (vectors[2] == node) | (vectors[3] == node);
    uint64_t words[DIFFJAX_BYTES / sizeof(uint64_t)], any_bits = 0;
    __builtin_memcpy(words, &is_node, sizeof(words));
    for (const uint64_t word : words) any_bits |= word;
    if (any_bits != 0) break;
  }
  for (; position < count; ++position) {
    if (list[position] == node) return position;
  }
  return -1;
}

}  // namespace diffjax::DIFFJAX_ISA
