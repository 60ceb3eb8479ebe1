/* backend/cpu/matmul.h - matrix products by oneDNN, the vendor library: the only door to it.
 *
 * Products are made once for each shape and kept. */
#ifndef TUNEUP_BACKEND_CPU_MATMUL_H
#define TUNEUP_BACKEND_CPU_MATMUL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "tensor/dtype.h"

/* What this processor can do, as oneDNN sees it (so ONEDNN_MAX_CPU_ISA lowers it, for tests); each includes the ones
 * before it. */
enum cpu_isa { CPU_PORTABLE, CPU_AVX2, CPU_AVX512, CPU_AVX512_BF16, CPU_AMX };

enum cpu_isa matmul_isa(void);
const char *matmul_isa_name(enum cpu_isa isa); /* "AVX2" */
void matmul_version(char *out, size_t size); /* "oneDNN 2.6.3" */

struct matmul;

int matmul_open(struct matmul **out, struct err *err);
void matmul_close(struct matmul *m); /* accepts NULL */

#endif
