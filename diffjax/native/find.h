// Linear search in a list. Included once for every instruction set, as rows.h is, hence
// no include guard.

namespace diffjax::DIFFJAX_ISA {

// Index of the first of `count` entries that is `node`, or -1.
DIFFJAX_TARGET inline int64_t find_place(const int32_t* places, int64_t count,
                                         int32_t node) {
  constexpr int64_t kLanes = DIFFJAX_BYTES / sizeof(int32_t), kStep = 4 * kLanes;
  typedef int32_t Vector
      __attribute__((vector_size(DIFFJAX_BYTES), aligned(alignof(int32_t)), may_alias));
  int64_t at = 0;
  // Steps of several vectors without a branch, up to the step that contains the node.
  for (; at + kStep <= count; at += kStep) {
    const auto* from = reinterpret_cast<const Vector*>(places + at);
    const Vector same = (from[0] == node) | (from[1] == node) | (from[2] == node) |
                        (from[3] == node);
    uint64_t words[DIFFJAX_BYTES / sizeof(uint64_t)], any = 0;
    __builtin_memcpy(words, &same, sizeof(words));
    for (const uint64_t word : words) any |= word;
    if (any != 0) break;
  }
  for (; at < count; ++at) {
    if (places[at] == node) return at;
  }
  return -1;
}

}  // namespace diffjax::DIFFJAX_ISA
