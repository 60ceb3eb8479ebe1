#include "report/exports.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/log.h"

static const enum ratio_kind shown[] = { RATIO_SPEED, RATIO_MEMORY, RATIO_ENERGY };

const char *exports_ranks(const struct load_cell *c, const char *before, const char *after,
                          char out[EXPORTS_RANKS_SIZE])
{
    out[0] = '\0';
    if (!c->is_command)
        snprintf(out, EXPORTS_RANKS_SIZE, "%s%" PRId64 " rank%s%s", before, c->ranks, c->ranks == 1 ? "" : "s", after);
    return out;
}

const char *exports_apart(unsigned apart, char out[EXPORTS_APART_SIZE])
{
    static const char *const in[] = { [RATIO_SPEED] = "time", [RATIO_MEMORY] = "memory", [RATIO_ENERGY] = "energy" };
    size_t n = 0;

    out[0] = '\0';
    for (int k = 0; k < COUNT_OF(in); k++)
        if (apart & 1u << k)
            n += (size_t)snprintf(out + n, EXPORTS_APART_SIZE - n, "%s%s", n ? ", " : "", in[k]);
    return out;
}

const char *exports_stop(const char *text)
{
    const size_t n = strlen(text);

    return n > 0 && text[n - 1] == '.' ? "" : ".";
}

void exports_number(double x, char *out, size_t size)
{
    snprintf(out, size, x < 0.01 || x >= 1e5 ? "%.1g" : x >= 100 ? "%.0f" : "%.2f", x);
}

void exports_ratio(const struct ratio *r, char *out, size_t size)
{
    char value[24], low[24], high[24];

    const char *mark = r->source == RATIO_ESTIMATED ? "~" : "";

    exports_number(r->e.value, value, sizeof value);
    exports_number(r->e.low, low, sizeof low);
    exports_number(r->e.high, high, sizeof high);
    if (r->source == RATIO_UNAVAILABLE)
        snprintf(out, size, "unavailable");
    else if (isnan(r->e.low))
        snprintf(out, size, "%s%s", mark, value);
    else
        snprintf(out, size, "%s%s [%s, %s]", mark, value, low, high);
}

void exports_bytes(double bytes, char *out, size_t size)
{
    static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB", "PiB" };
    int i = 0;

    for (; bytes >= 1024 && i + 1 < COUNT_OF(units); i++)
        bytes /= 1024;
    snprintf(out, size, "%.*f %s", i ? 2 : 0, bytes, units[i]);
}

void exports_gap(double gap, char *out, size_t size)
{
    if (isnan(gap))
        snprintf(out, size, "unknown");
    else if (gap == 0)
        snprintf(out, size, "0");
    else if (gap < 1e-4)
        snprintf(out, size, "%.0e", gap);
    else
        snprintf(out, size, "%.2f %%", 100 * gap);
}

void exports_quality(const struct comparison *row, char *out, size_t size)
{
    size_t used = 0;

    out[0] = '\0';
    for (int i = 0; i < row->n_qualities && used < size; i++) {
        const struct quality *q = &row->qualities[i];

        if (isfinite(q->value) && isfinite(q->base))
            used += (size_t)snprintf(out + used, size - used, "%s%s %.3g, baseline %.3g", used ? "; " : "", q->name,
                                     q->value, q->base);
    }
}

const char *exports_energy_reason(const struct comparisons *c)
{
    const char *reason = NULL;

    for (int i = 0; i < c->n; i++) {
        const struct comparison *row = &c->rows[i];

        if (row->ratios[RATIO_ENERGY].source != RATIO_UNAVAILABLE)
            return NULL;
        if (!reason && row->n_done > 0 && row->n_base_done > 0) /* of what was run */
            reason = row->ratios[RATIO_ENERGY].reason;
    }
    return reason || c->n == 0 ? reason : c->rows[0].ratios[RATIO_ENERGY].reason;
}

static char sign_of(const struct ratio *r)
{
    return r->source == RATIO_UNAVAILABLE ? ' ' : " +-=?"[r->e.verdict];
}

static bool new_group(const struct loaded *l, const struct comparisons *c, int i)
{
    const struct load_cell *a = &l->cells[c->rows[i].base], *b = i ? &l->cells[c->rows[i - 1].base] : NULL;

    return !b || a != b;
}

static void print_group(FILE *out, const struct loaded *l, int cell)
{
    const struct load_cell *base = &l->cells[cell];
    char name[80], phase[64], head[160], gap[32], memory[32], ranks[EXPORTS_RANKS_SIZE];

    log_safe(name, sizeof name, base->name);
    snprintf(gap, sizeof gap, "%s differs by", ratios_curve(base));
    snprintf(head, sizeof head, "%s%s, over \"%s\"", log_safe(phase, sizeof phase, base->phase),
             exports_ranks(base, ", ", "", ranks), name);
    snprintf(memory, sizeof memory, "  MemoryUp (%s)", ratios_memory(l, cell));
    fprintf(out, "\n%-40s %-21s %-21s %-21s %s\n", head, "  SpeedUp", memory, "  EnergyUp", gap);
}

static void print_row(FILE *out, const struct loaded *l, const struct comparison *row)
{
    char name[80], text[96], gap[32], quality[160];

    fprintf(out, "%-40s", log_safe(name, sizeof name, l->cells[row->cell].name));
    for (int k = 0; k < COUNT_OF(shown); k++) {
        exports_ratio(&row->ratios[shown[k]], text, sizeof text);
        fprintf(out, " %c %-19s", sign_of(&row->ratios[shown[k]]), text);
    }
    exports_gap(row->loss_gap, gap, sizeof gap);
    exports_quality(row, quality, sizeof quality);
    fprintf(out, " %s%s%s%s", gap, quality[0] ? "; " : "", quality,
            row->loss_flagged ? "  NOT the same numbers: check this technique" : "");
    if (row->n_failed)
        fprintf(out, "  (%d of %d runs failed)", row->n_failed, row->n_failed + row->n_done);
    fputc('\n', out);
}

/* At most so many are named. */
#define APART_SHOWN 8

static void print_apart(FILE *out, const struct loaded *l)
{
    char name[80], in[EXPORTS_APART_SIZE];
    int n = 0;

    for (int i = 0; i < l->n_runs; i++) {
        const struct load_run *r = &l->runs[i];
        const unsigned apart = ratios_outlier(l, r);

        if (!apart || n++ >= APART_SHOWN)
            continue;
        fprintf(out, "%s\"%s\" of block %" PRId64 " (%s)",
                n > 1 ? ", " : "Apart from their cell's other runs, and counted: ",
                log_safe(name, sizeof name, l->cells[r->cell].name), r->block + 1, exports_apart(apart, in));
    }
    if (n > APART_SHOWN)
        fprintf(out, " and %d more", n - APART_SHOWN);
    fputs(n ? ".\n" : "", out);
}

void exports_table(FILE *out, const struct loaded *l, const struct comparisons *c)
{
    char text[512];

    /* One group after the other; the rows of a group need not lie together. */
    for (int base = 0; base < l->n_cells; base++) {
        bool headed = false;

        for (int i = 0; i < c->n; i++) {
            if (c->rows[i].base != base)
                continue;
            if (!headed)
                print_group(out, l, base);
            headed = true;
            print_row(out, l, &c->rows[i]);
        }
    }
    fprintf(out,
            "\nAbove 1 is better than the baseline: + better, - worse, = no practical difference, ? inconclusive. "
            "Value [95 %% interval]%s\n",
            strcmp(l->design, "recorded") == 0 ? "." : ", paired by block.");
    if (exports_energy_reason(c))
        fprintf(out, "EnergyUp is unavailable: %s\n", log_safe(text, sizeof text, exports_energy_reason(c)));
    print_apart(out, l);
}

/* ---- Markdown ---- */

static void markdown_text(FILE *out, const char *text)
{
    for (; *text; text++) {
        if (strchr("\\`*_{}[]<>#|&~", *text))
            fputc('\\', out);
        fputc((unsigned char)*text < 0x20 || *text == 0x7f ? ' ' : *text, out);
    }
}

static void markdown_row(FILE *out, const struct loaded *l, const struct comparison *row)
{
    char text[192];

    fputs("| ", out);
    markdown_text(out, l->cells[row->cell].name);
    for (int k = 0; k < COUNT_OF(shown); k++) {
        const struct ratio *r = &row->ratios[shown[k]];

        exports_ratio(r, text, sizeof text);
        fprintf(out, " | %s", text);
        if (r->source == RATIO_UNAVAILABLE)
            continue;
        stats_verdict(&r->e, text, sizeof text);
        fprintf(out, ", %s", text);
    }
    exports_gap(row->loss_gap, text, sizeof text);
    fprintf(out, " | %s%s", text, row->loss_flagged ? " (flagged)" : "");
    exports_quality(row, text, sizeof text);
    fprintf(out, "%s%s | %d |\n", text[0] ? "; " : "", text, row->ratios[RATIO_SPEED].e.n);
}

void exports_markdown(FILE *out, const struct loaded *l, const struct comparisons *c)
{
    for (int i = 0; i < c->n; i++) {
        const struct load_cell *base = &l->cells[c->rows[i].base];

        if (new_group(l, c, i)) {
            char ranks[EXPORTS_RANKS_SIZE];

            fputs(i ? "\n**" : "**", out);
            markdown_text(out, base->phase);
            fprintf(out, "%s, over ", exports_ranks(base, ", ", "", ranks));
            markdown_text(out, base->name);
            fprintf(out,
                    "**\n\n| techniques | SpeedUp | MemoryUp (%s) | EnergyUp | %s differs by | n |\n"
                    "| --- | --- | --- | --- | --- | --- |\n",
                    ratios_memory(l, c->rows[i].base), ratios_curve(base));
        }
        markdown_row(out, l, &c->rows[i]);
    }
    if (exports_energy_reason(c)) {
        fputs("\nEnergyUp is unavailable: ", out);
        markdown_text(out, exports_energy_reason(c));
        fputc('\n', out);
    }
}

/* ---- CSV (RFC 4180) ---- */

void exports_csv_text(FILE *out, const char *text)
{
    fputc('"', out);
    if (text[0] && strchr("=+-@\t\r", text[0]))
        fputc('\'', out);
    for (; *text; text++) {
        if (*text == '"')
            fputc('"', out);
        if ((unsigned char)*text >= 0x20 && *text != 0x7f)
            fputc(*text, out);
        else
            fputc(' ', out);
    }
    fputc('"', out);
}

static void csv_number(FILE *out, double x)
{
    if (isfinite(x))
        fprintf(out, ",%.10g", x);
    else
        fputc(',', out);
}

static void csv_ratio(FILE *out, const struct loaded *l, const struct comparison *row, int kind)
{
    const struct load_cell *cell = &l->cells[row->cell], *base = &l->cells[row->base];
    const struct ratio *r = &row->ratios[kind];

    exports_csv_text(out, cell->phase);
    fputc(',', out);
    exports_csv_text(out, cell->name);
    fprintf(out, ",%" PRId64 ",", cell->ranks);
    exports_csv_text(out, base->name);
    fprintf(out, ",%s,%s", cell->exact ? "true" : "false", ratio_names[kind]);
    csv_number(out, r->e.value);
    csv_number(out, r->e.low);
    csv_number(out, r->e.high);
    fprintf(out, ",%d,%s", r->e.n, stats_verdict_word(r->e.verdict));
    csv_number(out, r->e.p);
    csv_number(out, r->e.p_holm);
    fprintf(out, ",%s,", ratio_source_name(r->source));
    exports_csv_text(out, r->reason);
    csv_number(out, row->loss_gap);
    fprintf(out, ",%s,%s\r\n", ratios_curve(cell),
            kind == RATIO_MEMORY || kind == RATIO_MEMORY_TIME ? ratios_memory(l, row->base) : "");
}

void exports_csv(FILE *out, const struct loaded *l, const struct comparisons *c)
{
    fputs("phase,cell,ranks,baseline,exact,ratio,value,low,high,n,verdict,p,p_holm,source,reason,difference,curve,"
          "memory\r\n",
          out);
    for (int i = 0; i < c->n; i++)
        for (int kind = 0; kind < RATIO_N; kind++)
            if (ratios_has(&l->cells[c->rows[i].cell], (enum ratio_kind)kind))
                csv_ratio(out, l, &c->rows[i], kind);
}

/* ---- JSON ---- */

static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

json_t *exports_ratio_json(const struct ratio *r, enum ratio_kind kind)
{
    json_t *o = json_pack("{s:o, s:o, s:o, s:i, s:s, s:o, s:o}", "value", number(r->e.value), "low", number(r->e.low),
                          "high", number(r->e.high), "n", r->e.n, "source", ratio_source_name(r->source), "p",
                          number(r->e.p), "p_holm", number(r->e.p_holm));

    if (kind == RATIO_POWER) /* more power is neither better nor worse */
        json_object_set_new(o, "verdict", json_null());
    else
        json_object_set_new(o, "verdict", json_string(stats_verdict_word(r->e.verdict)));
    if (r->reason[0])
        json_object_set_new(o, "reason", json_string(r->reason));
    if (r->grain > 0)
        json_object_set_new(o, "grain", json_real(r->grain));
    if (r->e.blocks_needed)
        json_object_set_new(o, "blocks_needed", json_integer(r->e.blocks_needed));
    return o;
}

static json_t *quality_json(const struct load_cell *cell, const struct comparison *row)
{
    json_t *o = json_object();
    char key[64];

    snprintf(key, sizeof key, "%s_difference", ratios_curve(cell));
    json_object_set_new(o, key, number(row->loss_gap));
    json_object_set_new(o, "final_loss", number(row->final_loss));
    json_object_set_new(o, "baseline_final_loss", number(row->base_final_loss));
    for (int i = 0; i < row->n_qualities; i++) {
        json_object_set_new(o, row->qualities[i].name, number(row->qualities[i].value));
        snprintf(key, sizeof key, "baseline_%s", row->qualities[i].name);
        json_object_set_new(o, key, number(row->qualities[i].base));
    }
    json_object_set_new(o, "flagged", json_boolean(row->loss_flagged));
    return o;
}

/* "+-?": time, memory, energy; what was not measured is a space. */
static json_t *signs_json(const struct comparison *row)
{
    char signs[COUNT_OF(shown) + 1] = "";

    for (int k = 0; k < COUNT_OF(shown); k++)
        signs[k] = sign_of(&row->ratios[shown[k]]);
    return json_string(signs);
}

static json_t *row_json(const struct loaded *l, const struct comparison *row)
{
    static const char *const keys[RATIO_N] = {
        [RATIO_WHOLE] = "SpeedUpWholeRun",    [RATIO_ENERGY_DELAY] = "EnergyDelayUp",
        [RATIO_MEMORY_TIME] = "MemoryTimeUp", [RATIO_GENERATE] = "SpeedUpGeneration",
        [RATIO_SCORE] = "SpeedUpScoring",     [RATIO_TRAIN] = "SpeedUpTraining"
    };
    const struct load_cell *cell = &l->cells[row->cell];
    json_t *ratios = json_object();
    json_t *techniques = json_loads(cell->techniques, 0, NULL);

    for (int kind = 0; kind < RATIO_N; kind++)
        if (ratios_has(cell, (enum ratio_kind)kind))
            json_object_set_new(ratios, keys[kind] ? keys[kind] : ratio_names[kind],
                                exports_ratio_json(&row->ratios[kind], (enum ratio_kind)kind));
    return json_pack("{s:s, s:s, s:I, s:s, s:o, s:b, s:o, s:i, s:i, s:o, s:s?, s:o, s:s}", "phase", cell->phase, "cell",
                     cell->name, "ranks", (json_int_t)cell->ranks, "baseline", l->cells[row->base].name, "techniques",
                     techniques ? techniques : json_null(), "exact", (int)cell->exact, "ratios", ratios, "runs",
                     row->n_done, "failed", row->n_failed, "quality", quality_json(cell, row), "power", row->category,
                     "signs", signs_json(row), "memory", ratios_memory(l, row->base));
}

json_t *exports_json(const struct loaded *l, const struct comparisons *c)
{
    json_t *rows = json_array();

    for (int i = 0; i < c->n; i++)
        json_array_append_new(rows, row_json(l, &c->rows[i]));
    return json_pack("{s:i, s:{s:s, s:s, s:s, s:s, s:I, s:I}, s:f, s:f, s:o}", "schema_version", 1, "study", "name",
                     l->name, "design", l->design, "created", l->created, "tuneup", l->version, "seed",
                     (json_int_t)l->seed, "blocks", (json_int_t)l->blocks, "confidence", STATS_CONFIDENCE,
                     "practical_difference", STATS_PRACTICAL, "comparisons", rows);
}
