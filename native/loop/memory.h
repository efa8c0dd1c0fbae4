// Arrays of zeros, aligned to lines of the cache; addresses that come from Python.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

struct Free {
    void operator()(void *memory) const { ::operator delete(memory, std::align_val_t(64)); }
};
template <class T> using Array = std::unique_ptr<T[], Free>;

template <class T> Array<T> zeros(size_t count) {
    auto *memory = static_cast<T *>(::operator new(std::max<size_t>(count, 1) * sizeof(T), std::align_val_t(64)));
    std::fill_n(memory, count, T(0));
    return Array<T>(memory);
}

template <class T> T *pointer(int64_t address) { return reinterpret_cast<T *>(static_cast<uintptr_t>(address)); }
