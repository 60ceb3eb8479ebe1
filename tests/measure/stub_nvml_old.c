/* The same, as an old driver has it. */
#define STUB_NVML_OLD
#include "stub_nvml.c"
