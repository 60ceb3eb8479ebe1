/* The same numbers in three forms: a table, one line, JSON. */
#include "plan/print.h"

#include <string.h>

const char *print_bytes(double bytes, char out[PRINT_BYTES_MAX])
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    int unit = 0;

    while (bytes >= 1024 && unit + 1 < COUNT_OF(units)) {
        bytes /= 1024;
        unit++;
    }
    snprintf(out, PRINT_BYTES_MAX, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
    return out;
}

/* The techniques that changed buffers of a kind, in the order of their first change. */
static void changed_by(const struct plan *p, enum buffer_kind kind, char *out, size_t size)
{
    out[0] = '\0';
    for (int i = 0; i < p->n_buffers; i++) {
        const struct buffer *b = &p->buffers[i];
        if (b->kind != kind || strcmp(b->by, "model") == 0 || strcmp(b->by, "update") == 0 || strstr(out, b->by))
            continue;
        const size_t n = strlen(out);
        snprintf(out + n, size - n, "%s%s", n ? ", " : "", b->by);
    }
}

static double total(const struct plan *p)
{
    return (double)p->tier_bytes[TIER_DEVICE];
}

void print_plan(FILE *out, const struct plan *p, const struct plan *plain)
{
    const struct op_cost cost = cost_update(p);
    char a[PRINT_BYTES_MAX], b[PRINT_BYTES_MAX], by[128];

    fprintf(out, "%-12s %12s %12s   %s\n", "kind", plain ? "without" : "", "with", "by");
    for (int k = 0; k < KIND_N; k++) {
        if (p->kind_bytes[k] == 0 && (!plain || plain->kind_bytes[k] == 0))
            continue;
        changed_by(p, (enum buffer_kind)k, by, sizeof by);
        fprintf(out, "%-12s %12s %12s   %s\n", kind_name((enum buffer_kind)k),
                plain ? print_bytes((double)plain->kind_bytes[k], a) : "", print_bytes((double)p->kind_bytes[k], b),
                by);
    }
    fprintf(out, "%-12s %12s %12s   each of %d rank%s\n", "all", plain ? print_bytes(total(plain), a) : "",
            print_bytes(total(p), b), p->ranks, p->ranks == 1 ? "" : "s");
    if (p->tier_bytes[TIER_FILE] > 0)
        fprintf(out, "%-12s %12s %12s   beside memory\n", "in files", "",
                print_bytes((double)p->tier_bytes[TIER_FILE], a));
    if (p->tier_bytes[TIER_MAPPED] > 0)
        fprintf(out, "%-12s %12s %12s   in the model's files, beside memory%s\n", "mapped", "",
                print_bytes((double)p->tier_bytes[TIER_MAPPED], a),
                p->assumes_files ? "; files that are not here are assumed to be of the planned types" : "");
    if (p->unmapped_bytes > 0)
        fprintf(out, "%-12s %12s %12s   frozen, but not of the planned type in the model's files: in memory\n",
                "not mapped", "", print_bytes((double)p->unmapped_bytes, a));
    fprintf(out, "\nan update: %.4g TFLOP, %s moved at least", cost.flops * 1e-12, print_bytes(cost.bytes_moved, a));
    fprintf(out, ", %s sent by a rank", print_bytes(cost.comm_bytes, a));
    if (cost.file_bytes > 0)
        fprintf(out, ", %s to and from files", print_bytes(cost.file_bytes, a));
    putc('\n', out);
}

void print_program(FILE *out, const struct plan *p, int program)
{
    const struct program *g = &p->programs[program];

    fprintf(out, "\nprogram %s, rank %d of %d\n%5s  %-22s %-44s %-12s %10s\n", g->name, p->rank, p->ranks, "#", "op",
            "out", "by", "GFLOP");
    for (int i = 0; i < g->n_steps; i++) {
        const struct op_step *s = &g->steps[i];
        fprintf(out, "%5d  %-22s %-44s %-12s %10.3f\n", i, op_rule(s->op)->name,
                s->out[0] < 0 ? "-" : p->buffers[s->out[0]].name, s->by, s->cost.flops * 1e-9);
    }
}

json_t *print_plan_json(const struct plan *p)
{
    const struct op_cost cost = cost_update(p);
    json_t *memory = json_object();

    for (int k = 0; k < KIND_N; k++)
        json_object_set_new(memory, kind_name((enum buffer_kind)k), json_integer((json_int_t)p->kind_bytes[k]));
    return json_pack("{s:i, s:o, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f}", "ranks", p->ranks, "memory", memory,
                     "peak_bytes", (json_int_t)p->tier_bytes[TIER_DEVICE], "file_bytes",
                     (json_int_t)p->tier_bytes[TIER_FILE], "mapped_bytes", (json_int_t)p->tier_bytes[TIER_MAPPED],
                     "unmapped_bytes", (json_int_t)p->unmapped_bytes, "flops", cost.flops, "bytes_moved",
                     cost.bytes_moved, "comm_bytes", cost.comm_bytes, "file_bytes_moved", cost.file_bytes);
}

void print_kinds(const struct plan *p, char *out, size_t size)
{
    char text[PRINT_BYTES_MAX];
    size_t n = 0;

    out[0] = '\0';
    for (int k = 0; k < KIND_N && n < size; k++)
        if (p->kind_bytes[k] > 0)
            n += (size_t)snprintf(out + n, size - n, "%s%s %s", n ? ", " : "", kind_name((enum buffer_kind)k),
                                  print_bytes((double)p->kind_bytes[k], text));
}

const char *print_mapped(const struct plan *p, char *out, size_t size)
{
    static const char why[] = "there they are of another type than the run's, or cannot be mapped";
    char mapped[PRINT_BYTES_MAX], rest[PRINT_BYTES_MAX];

    print_bytes((double)p->tier_bytes[TIER_MAPPED], mapped);
    print_bytes((double)p->unmapped_bytes, rest);
    out[0] = '\0';
    if (p->tier_bytes[TIER_MAPPED] == 0 && p->unmapped_bytes > 0)
        snprintf(out, size, "none of the frozen weights, %s a rank, are used where they lie in the model's files: %s",
                 rest, why);
    else if (p->tier_bytes[TIER_MAPPED] > 0)
        snprintf(out, size, "%s a rank of frozen weights are used where they lie in the model's files%s%s%s%s", mapped,
                 p->unmapped_bytes ? ", " : "", p->unmapped_bytes ? rest : "", p->unmapped_bytes ? " are not: " : "",
                 p->unmapped_bytes ? why : "");
    return out;
}
