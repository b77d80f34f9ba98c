#pragma once

#include <pybind11/pybind11.h>

namespace pydiff {

void bind_program(pybind11::module_& m);  // nothing where the processor has not what the steps need

}  // namespace pydiff
