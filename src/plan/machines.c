/* Well-known machines, each figure with its source. Matrix rates are dense ones (data sheets like to tell those of 2:4 sparsity,
 * twice as high). Bandwidths of links are one direction's. What no data sheet states is an assumption, and says so: the
 * idle share of power, latencies, and the efficiencies, which are typical of training runs and not of any one program. A
 * device's watts are the device's alone: host, fans and network are not in them. */
#include "plan/profile.h"

#define GB 1e9
#define GIB 1073741824.0
#define TERA 1e12
#define MICRO 1e-6

#define IDLE "assumed: a fifth of the power limit flows at idle, the rest follows the work"
#define TYPICAL "assumed: typical of training runs"
#define LATENCY "assumed: a small message, software included"
#define NVME "assumed: one NVMe drive of PCIe 4.0"

/* What all rows of GPUs have in common. */
#define GPU_TYPICAL                                                                                                    \
    [PROFILE_LINK_LATENCY] = { 8 * MICRO, LATENCY }, [PROFILE_NETWORK_LATENCY] = { 15 * MICRO, LATENCY },              \
    [PROFILE_DISK_BANDWIDTH] = { 5 * GB, NVME },                                                                       \
    [PROFILE_OP_OVERHEAD] = { 6 * MICRO, "assumed: the launch of a kernel" },                                          \
    [PROFILE_HOST_BANDWIDTH] = { 5 * GB, "assumed: read over PCIe, then by one core" },                                \
    [PROFILE_MATMUL_EFFICIENCY] = { 0.55, TYPICAL }, [PROFILE_ATTENTION_EFFICIENCY] = { 0.35, TYPICAL },               \
    [PROFILE_OTHER_EFFICIENCY] = { 0.75, TYPICAL }

#define CPU_TYPICAL                                                                                                    \
    [PROFILE_LINK_LATENCY] = { 2 * MICRO, LATENCY }, [PROFILE_NETWORK_LATENCY] = { 4 * MICRO, LATENCY },               \
    [PROFILE_DISK_BANDWIDTH] = { 5 * GB, NVME },                                                                       \
    [PROFILE_OP_OVERHEAD] = { 5 * MICRO, "assumed: one parallel region over all cores" },                              \
    [PROFILE_HOST_BANDWIDTH] = { 1 * GB, "assumed: read by one core" },                                                \
    [PROFILE_MATMUL_EFFICIENCY] = { 0.5, TYPICAL }, [PROFILE_ATTENTION_EFFICIENCY] = { 0.25, TYPICAL },                \
    [PROFILE_OTHER_EFFICIENCY] = { 0.7, TYPICAL }

/* The limit split into what always flows and what follows the work. */
#define POWER(watts) [PROFILE_STATIC_POWER] = { 0.2 * (watts), IDLE }, [PROFILE_DYNAMIC_POWER] = { 0.8 * (watts), IDLE }

#define A100 "NVIDIA A100 data sheet"
#define H100 "NVIDIA H100 data sheet"
#define H200 "NVIDIA H200 data sheet"
#define ADA "NVIDIA Ada GPU architecture white paper"
#define L40S "NVIDIA L40S data sheet"
#define XEON "Intel Xeon Platinum 8480+ data sheet: 2 x 56 cores at the base clock of 2.0 GHz"
#define AMX "Intel optimization manual: AMX, 1024 bf16 or 2048 int8 operations a cycle and core; 2 x 56 at 2.0 GHz"
#define EPYC "AMD EPYC 9654 data sheet: 2 x 96 cores at the base clock of 2.4 GHz"
#define ZEN4 "AMD Zen 4 optimization guide: AVX512-BF16 and VNNI at 64 and 128 operations a cycle and core"
#define RYZEN "AMD Ryzen 7 7840U data sheet: 8 cores at the base clock of 3.3 GHz"

/* clang-format off */
const struct profile profile_machines[] = {
    { .name = "a100-40gb", .describe = "NVIDIA A100 SXM 40 GB, 8 a node", .figures = {
        [PROFILE_FP32_FLOPS] = { 19.5 * TERA, A100 }, [PROFILE_BF16_FLOPS] = { 312 * TERA, A100 },
        [PROFILE_INT8_FLOPS] = { 624 * TERA, A100 }, [PROFILE_BANDWIDTH] = { 1555 * GB, A100 },
        [PROFILE_MEMORY] = { 40 * GB, A100 }, [PROFILE_LINK_BANDWIDTH] = { 300 * GB, A100 },
        [PROFILE_NODE_RANKS] = { 8, "NVIDIA DGX A100 data sheet" },
        [PROFILE_NETWORK_BANDWIDTH] = { 25 * GB, "NVIDIA DGX A100 data sheet: 8 x 200 Gb/s" },
        POWER(400), GPU_TYPICAL } },
    { .name = "a100-80gb", .describe = "NVIDIA A100 SXM 80 GB, 8 a node", .figures = {
        [PROFILE_FP32_FLOPS] = { 19.5 * TERA, A100 }, [PROFILE_BF16_FLOPS] = { 312 * TERA, A100 },
        [PROFILE_INT8_FLOPS] = { 624 * TERA, A100 }, [PROFILE_BANDWIDTH] = { 2039 * GB, A100 },
        [PROFILE_MEMORY] = { 80 * GB, A100 }, [PROFILE_LINK_BANDWIDTH] = { 300 * GB, A100 },
        [PROFILE_NODE_RANKS] = { 8, "NVIDIA DGX A100 data sheet" },
        [PROFILE_NETWORK_BANDWIDTH] = { 25 * GB, "NVIDIA DGX A100 data sheet: 8 x 200 Gb/s" },
        POWER(400), GPU_TYPICAL } },
    { .name = "h100-sxm", .describe = "NVIDIA H100 SXM 80 GB, 8 a node", .figures = {
        [PROFILE_FP32_FLOPS] = { 67 * TERA, H100 }, [PROFILE_BF16_FLOPS] = { 989 * TERA, H100 },
        [PROFILE_INT8_FLOPS] = { 1979 * TERA, H100 }, [PROFILE_BANDWIDTH] = { 3350 * GB, H100 },
        [PROFILE_MEMORY] = { 80 * GB, H100 }, [PROFILE_LINK_BANDWIDTH] = { 450 * GB, H100 },
        [PROFILE_NODE_RANKS] = { 8, "NVIDIA DGX H100 data sheet" },
        [PROFILE_NETWORK_BANDWIDTH] = { 50 * GB, "NVIDIA DGX H100 data sheet: 8 x 400 Gb/s" },
        POWER(700), GPU_TYPICAL } },
    { .name = "h200-sxm", .describe = "NVIDIA H200 SXM 141 GB, 8 a node", .figures = {
        [PROFILE_FP32_FLOPS] = { 67 * TERA, H200 }, [PROFILE_BF16_FLOPS] = { 989 * TERA, H200 },
        [PROFILE_INT8_FLOPS] = { 1979 * TERA, H200 }, [PROFILE_BANDWIDTH] = { 4800 * GB, H200 },
        [PROFILE_MEMORY] = { 141 * GB, H200 }, [PROFILE_LINK_BANDWIDTH] = { 450 * GB, H200 },
        [PROFILE_NODE_RANKS] = { 8, "NVIDIA DGX H200 data sheet" },
        [PROFILE_NETWORK_BANDWIDTH] = { 50 * GB, "NVIDIA DGX H200 data sheet: 8 x 400 Gb/s" },
        POWER(700), GPU_TYPICAL } },
    { .name = "rtx-4090", .describe = "NVIDIA GeForce RTX 4090, 2 a workstation", .figures = {
        [PROFILE_FP32_FLOPS] = { 82.6 * TERA, ADA }, [PROFILE_BF16_FLOPS] = { 165.2 * TERA, ADA },
        [PROFILE_INT8_FLOPS] = { 660.6 * TERA, ADA }, [PROFILE_BANDWIDTH] = { 1008 * GB, ADA },
        [PROFILE_MEMORY] = { 24 * GB, ADA },
        [PROFILE_LINK_BANDWIDTH] = { 20 * GB, "PCI Express 4.0 x16, 32 GB/s; assumed: two thirds of it, through the host" },
        [PROFILE_NODE_RANKS] = { 2, "assumed: a workstation" },
        [PROFILE_NETWORK_BANDWIDTH] = { 1.2 * GB, "assumed: 10 Gb/s Ethernet" },
        POWER(450), GPU_TYPICAL } },
    { .name = "l40s", .describe = "NVIDIA L40S 48 GB, 4 a node", .figures = {
        [PROFILE_FP32_FLOPS] = { 91.6 * TERA, L40S }, [PROFILE_BF16_FLOPS] = { 362 * TERA, L40S },
        [PROFILE_INT8_FLOPS] = { 733 * TERA, L40S }, [PROFILE_BANDWIDTH] = { 864 * GB, L40S },
        [PROFILE_MEMORY] = { 48 * GB, L40S },
        [PROFILE_LINK_BANDWIDTH] = { 20 * GB, "PCI Express 4.0 x16, 32 GB/s; assumed: two thirds of it, through the host" },
        [PROFILE_NODE_RANKS] = { 4, "assumed: a server of four" },
        [PROFILE_NETWORK_BANDWIDTH] = { 12.5 * GB, "assumed: 2 x 200 Gb/s for four devices" },
        POWER(350), GPU_TYPICAL } },
    { .name = "xeon-8480-2s", .describe = "2 x Intel Xeon Platinum 8480+, a rank a node", .figures = {
        [PROFILE_FP32_FLOPS] = { 14.3 * TERA, XEON ", 64 operations a cycle (2 AVX-512 FMA)" },
        [PROFILE_BF16_FLOPS] = { 229 * TERA, AMX }, [PROFILE_INT8_FLOPS] = { 458 * TERA, AMX },
        [PROFILE_BANDWIDTH] = { 614 * GB, "Intel Xeon Platinum 8480+ data sheet: 2 x 8 channels of DDR5-4800" },
        [PROFILE_MEMORY] = { 512 * GIB, "assumed: 16 modules of 32 GiB" },
        [PROFILE_LINK_BANDWIDTH] = { 25 * GB, "assumed: 200 Gb/s InfiniBand" },
        [PROFILE_NODE_RANKS] = { 1, "a rank has the whole node" },
        [PROFILE_NETWORK_BANDWIDTH] = { 25 * GB, "assumed: 200 Gb/s InfiniBand" },
        POWER(2 * 350), CPU_TYPICAL } },
    { .name = "epyc-9654-2s", .describe = "2 x AMD EPYC 9654, a rank a node", .figures = {
        [PROFILE_FP32_FLOPS] = { 14.7 * TERA, EPYC ", 32 operations a cycle (2 x 256-bit FMA)" },
        [PROFILE_BF16_FLOPS] = { 29.5 * TERA, ZEN4 }, [PROFILE_INT8_FLOPS] = { 59 * TERA, ZEN4 },
        [PROFILE_BANDWIDTH] = { 921 * GB, "AMD EPYC 9654 data sheet: 2 x 12 channels of DDR5-4800" },
        [PROFILE_MEMORY] = { 768 * GIB, "assumed: 24 modules of 32 GiB" },
        [PROFILE_LINK_BANDWIDTH] = { 25 * GB, "assumed: 200 Gb/s InfiniBand" },
        [PROFILE_NODE_RANKS] = { 1, "a rank has the whole node" },
        [PROFILE_NETWORK_BANDWIDTH] = { 25 * GB, "assumed: 200 Gb/s InfiniBand" },
        POWER(2 * 360), CPU_TYPICAL } },
    { .name = "laptop", .describe = "laptop with AMD Ryzen 7 7840U, all ranks on it", .shared = true, .figures = {
        [PROFILE_FP32_FLOPS] = { 0.84 * TERA, RYZEN ", 32 operations a cycle" },
        [PROFILE_BF16_FLOPS] = { 1.69 * TERA, ZEN4 }, [PROFILE_INT8_FLOPS] = { 3.38 * TERA, ZEN4 },
        [PROFILE_BANDWIDTH] = { 89.6 * GB, "AMD Ryzen 7 7840U data sheet: 2 channels of DDR5-5600" },
        [PROFILE_MEMORY] = { 32 * GIB, "assumed: 32 GiB" },
        [PROFILE_LINK_BANDWIDTH] = { 10 * GB, "assumed: through shared memory" },
        [PROFILE_NODE_RANKS] = { 8, "a rank a core at most" },
        [PROFILE_NETWORK_BANDWIDTH] = { 0.12 * GB, "assumed: 1 Gb/s Ethernet" },
        POWER(28), CPU_TYPICAL } },
    { .name = "" },
};
/* clang-format on */
