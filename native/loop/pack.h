// Matrices as loop_linear reads them, and which functions this processor can run.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#include "cr_format.h"
#include "loop.h"

// A matrix, (width, depth): entry (output, input) stands at from + output * down + input * along.
struct Matrix {
    const float *from;
    int64_t width, depth, down, along;

    size_t panels_size() const { return static_cast<size_t>((width + CR_LANES - 1) / CR_LANES * CR_LANES * depth); }

    void pack(float *panels) const {
        for (int64_t first = 0; first < width; first += CR_LANES)
            for (int64_t k = 0; k < depth; k++)
                for (int64_t lane = 0; lane < CR_LANES; lane++)
                    *panels++ = first + lane < width ? from[(first + lane) * down + k * along] : 0.0f;
    }
};

inline const loop_functions &find_loop(const std::string &isa, bool exact, const cr_kernels **kernels) {
    const loop_functions *found = loop_find(isa.empty() ? nullptr : isa.c_str(), exact, kernels);
    if (!found) throw std::invalid_argument("CRNN_ISA: not usable on this processor");
    return *found;
}
