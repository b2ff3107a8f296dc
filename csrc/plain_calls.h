// Adds the short ways into the operators to the Python module: see plain_calls.cpp.
#pragma once

#include <pybind11/pybind11.h>

namespace gk {

void define_plain_calls(PyObject* module);

}  // namespace gk
