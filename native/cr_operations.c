/* The tables that are made of the lists. */
#include "cr_format.h"

#define CR_ROW(name_, number, ...) [number] = {.name = #name_, __VA_ARGS__},
const cr_operation cr_operations[CR_CODE_COUNT] = {CR_OPERATIONS(CR_ROW)};

#define CR_PARAMETERS(name, number, parameters, kernel) [number] = parameters,
const uint8_t cr_unary_parameters[CR_UNARY_COUNT] = {CR_UNARY_FUNCTIONS(CR_PARAMETERS)};

static uint64_t cr_digits(uint64_t n)
{
    uint64_t digits = 1;
    while (n >> digits) digits++;
    return digits;
}

uint64_t cr_width_of(unsigned width, uint64_t n, uint64_t k)
{
    const uint64_t P = (n + CR_LANES - 1) / CR_LANES * CR_LANES, Q = (k + CR_LANES - 1) / CR_LANES * CR_LANES;
    switch (width) {
#define CR_CASE(name, value) case CR_WIDTH_##name: return value;
        CR_WIDTHS(CR_CASE)
    }
    return 0;
}

const char *cr_width_text(unsigned width)
{
    switch (width) {
#define CR_TEXT(name, value) case CR_WIDTH_##name: return #value;
        CR_WIDTHS(CR_TEXT)
    }
    return "";
}
