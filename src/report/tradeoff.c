/* Both axes of the map are logarithmic: right and up are better, and on the falling diagonal SpeedUp x EnergyUp is 1. Outlined
 * is what nothing else beats beyond noise, the same set that advise.h makes, with equal weights. */
#include "report/tradeoff.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "report/advise.h"
#include "report/figures.h"

#define MAX_LABELS 24 /* more names would lie over each other: then only the outlined ones have one */
#define MAX_LINES 8 /* of runs over time */

static const char *const inks[MAX_LINES] = { "#222222", "#0072B2", "#D55E00", "#009E73",
                                             "#CC79A7", "#E69F00", "#56B4E9", "#999999" };

struct point {
    const struct load_cell *cell;
    double x, y, x_low, x_high, y_low, y_high, memory;
    bool pareto;
};

static bool any_energy(const struct comparisons *c)
{
    for (int i = 0; i < c->n; i++)
        if (c->rows[i].ratios[RATIO_ENERGY].source != RATIO_UNAVAILABLE)
            return true;
    return false;
}

static bool is_pareto(const struct advice *a, int cell)
{
    for (int i = 0; i < a->n; i++)
        for (int k = 0; k < a->groups[i].n; k++)
            if (a->groups[i].cells[k].cell == cell)
                return advise_feasible(&a->groups[i].cells[k]) && a->groups[i].cells[k].dominated_by < 0;
    return false;
}

static bool point_of(struct point *p, const struct loaded *l, const struct comparison *row, const struct advice *a,
                     enum ratio_kind y)
{
    const struct estimate *s = &row->ratios[RATIO_SPEED].e, *e = &row->ratios[y].e, *m = &row->ratios[RATIO_MEMORY].e;

    if (isnan(s->value) || isnan(e->value))
        return false;
    *p = (struct point){ .cell = &l->cells[row->cell],
                         .x = s->value,
                         .y = e->value,
                         .x_low = isnan(s->low) ? s->value : s->low,
                         .x_high = isnan(s->low) ? s->value : s->high,
                         .y_low = isnan(e->low) ? e->value : e->low,
                         .y_high = isnan(e->low) ? e->value : e->high,
                         .memory = isnan(m->value) ? 1 : m->value,
                         .pareto = is_pareto(a, row->cell) };
    return true;
}

/* What the values and their intervals span, with room for labels; an interval that says nothing does not stretch it far. */
struct span {
    double low, high;
};

static struct span span_of(const struct comparisons *c, enum ratio_kind kind)
{
    const double most = 1.3; /* of an interval beyond its value */
    struct span s = { 0.88, 1.14 };

    for (int i = 0; i < c->n; i++) {
        const struct estimate *e = &c->rows[i].ratios[kind].e;

        if (isnan(e->value))
            continue;
        s.low = fmin(s.low, isnan(e->low) ? e->value : fmax(e->low, e->value / most));
        s.high = fmax(s.high, isnan(e->high) ? e->value : fmin(e->high, e->value * most));
    }
    const double room = pow(s.high / s.low, 0.1);
    return (struct span){ s.low / room, s.high * room * room };
}

static void axis(FILE *out, char name, struct span s)
{
    static const double ticks[] = { 0.1, 0.2, 0.3,  0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1,  1.1, 1.2,
                                    1.3, 1.5, 1.75, 2,   2.5, 3,   4,   5,   7,   10, 20,  50 };
    const double apart = log(s.high / s.low) / 14;
    double last = -INFINITY;

    fprintf(out, "set %crange [%.6g:%.6g]\nset %ctics (", name, s.low, s.high, name);
    for (int i = 0, n = 0; i < COUNT_OF(ticks); i++)
        if (ticks[i] == 1 || (log(ticks[i]) - last > apart && fabs(log(ticks[i])) > apart)) {
            fprintf(out, "%s'%g' %g", n++ ? ", " : "", ticks[i], ticks[i]);
            last = log(ticks[i]);
        }
    fputs(")\n", out);
}

static void put_points(FILE *out, const char *name, const struct point *p, int n, bool pareto)
{
    fprintf(out, "$%s << EOD\n", name);
    for (int i = 0; i < n; i++)
        if (p[i].pareto == pareto)
            fprintf(out, "%.9g %.9g %.9g %.9g %.9g %.9g %.4f\n", p[i].x, p[i].y, p[i].x_low, p[i].x_high, p[i].y_low,
                    p[i].y_high, fmin(fmax(1.1 * p[i].memory, 0.5), 4));
    fputs("EOD\n", out);
}

/* A place on the map in letters and lines, about. */
#define MAP_LETTERS 125
#define MAP_LINES 30

static double place(double x, struct span s, double size)
{
    return size * log(x / s.low) / log(s.high / s.low);
}

/* Each label goes right of its point, a line lower for as long as it would lie over one that is there. */
static void put_labels(FILE *out, const struct point *p, int n, struct span x, struct span y)
{
    double at[256][3]; /* letters, lines, length */
    int placed = 0;

    for (int i = 0; i < n; i++) {
        if (n > MAX_LABELS && !p[i].pareto)
            continue;
        const double letters = place(p[i].x, x, MAP_LETTERS), lines = place(p[i].y, y, MAP_LINES);
        const double length = fmin((double)strlen(p[i].cell->name), 60) + 4;
        double offset = 0.5;

        for (int k = 0, tries = 0; k < placed && tries < 40; k++)
            if (fabs(lines + offset - at[k][1]) < 0.7 && letters < at[k][0] + at[k][2] && at[k][0] < letters + length) {
                offset -= 0.6;
                k = -1;
                tries++;
            }
        at[placed][0] = letters;
        at[placed][1] = lines + offset;
        at[placed++][2] = length;
        fputs("set label ", out);
        figures_label(out, p[i].cell);
        fprintf(out, " at %.9g,%.9g offset 1.3,%.2f font ',11' textcolor '#222222'\n", p[i].x, p[i].y, offset);
    }
}

static void put_plot(FILE *out, const struct point *p, int n)
{
    static const char *const names[] = { "others", "best" }, *const colours[] = { "#56B4E9", "#0072B2" };
    static const char *const titles[] = { "beaten by another", "beaten by none" };
    int drawn = 0;

    fputs("plot ", out);
    for (int k = 0; k < 2; k++) {
        bool any = false;

        for (int i = 0; i < n; i++)
            any = any || p[i].pareto == (k == 1);
        if (!any)
            continue;
        fprintf(out,
                "%s$%s using 1:2:3:4:5:6 with xyerrorbars pointtype 0 linewidth 1 linecolor '%s' notitle, "
                "$%s using 1:2:7 with points pointtype 7 pointsize variable linecolor '%s' title '%s'",
                drawn++ ? ", " : "", names[k], colours[k], names[k], colours[k], titles[k]);
        if (k == 1)
            fprintf(out,
                    ", $%s using 1:2:($7*1.35) with points pointtype 6 pointsize variable linewidth 2 linecolor "
                    "'#D55E00' notitle",
                    names[k]);
    }
    fputc('\n', out);
}

bool tradeoff_draw(FILE *out, const struct loaded *l, const struct comparisons *c, const char *phase)
{
    const bool energy = any_energy(c);
    const enum ratio_kind y = energy ? RATIO_ENERGY : RATIO_MEMORY;
    const struct advise_wish wish = { .weight = { 1.0 / 3, 1.0 / 3, 1.0 / 3 }, .limit = { NAN, NAN, NAN, NAN } };
    struct point points[256];
    struct advice a;
    struct err err;
    int n = 0;

    if (advise_build(&a, l, c, &wish, phase, &err) != 0)
        return false;
    for (int i = 0; i < c->n && n < COUNT_OF(points); i++)
        n += point_of(&points[n], l, &c->rows[i], &a, y);
    advise_free(&a);
    if (n == 0)
        return false;
    fputs("set border 3 linecolor '#888888'\nset grid linecolor '#dddddd' linetype 1\nset tics nomirror textcolor "
          "'#222222'\n"
          "set logscale xy\nset key outside top center horizontal textcolor '#222222'\n"
          "set xlabel 'SpeedUp (right: faster)' textcolor '#222222'\n",
          out);
    fprintf(out, "set ylabel '%s' textcolor '#222222'\n",
            energy ? "EnergyUp (up: less energy)" : "MemoryUp (up: less memory)");
    axis(out, 'x', span_of(c, RATIO_SPEED));
    axis(out, 'y', span_of(c, y));
    fputs("set arrow from 1, graph 0 to 1, graph 1 nohead linecolor '#444444' back\n"
          "set arrow from graph 0, first 1 to graph 1, first 1 nohead linecolor '#444444' back\n",
          out);
    put_labels(out, points, n, span_of(c, RATIO_SPEED), span_of(c, y));
    put_points(out, "others", points, n, false);
    put_points(out, "best", points, n, true);
    put_plot(out, points, n);
    return true;
}

/* ---- Power and memory over time ---- */

/* A point of the line: the stretch that ends there, of the run's trace, or of its steps where there is none. */
struct stretch {
    double seconds, value; /* its length; MiB or W */
};

static struct stretch stretch_of(const struct loaded *l, const struct load_run *r, bool traced, bool power, int i)
{
    if (traced) {
        const struct load_point *p = &r->trace[i];
        const int64_t bytes = ratios_gpu_memory(l, r->cell) ? p->gpu_bytes : p->memory_bytes;

        return (struct stretch){ p->seconds - (i > 0 ? p[-1].seconds : 0), power ? p->watts : (double)bytes / 1048576 };
    }
    const struct load_step *s = &r->steps[i];

    return (struct stretch){ s->seconds > 0 ? s->seconds : 0,
                             power ? s->joules / s->seconds : (double)s->peak_bytes / 1048576 };
}

static bool has_line(const struct loaded *l, const struct load_run *r, bool traced, bool power)
{
    const int n = !r ? 0 : traced ? r->n_trace : r->n_steps;

    for (int i = 0; i < n; i++)
        if (stretch_of(l, r, traced, power, i).value > 0)
            return n > 1;
    return false;
}

/* The phase's cells that have a line, from the study's first. */
static int lines_of(const struct loaded *l, const char *phase, bool traced, bool power, int cells[MAX_LINES])
{
    int n = 0;

    for (int i = 0; i < l->n_cells && n < MAX_LINES; i++)
        if (strcmp(l->cells[i].phase, phase) == 0 && has_line(l, figures_example(l, i), traced, power))
            cells[n++] = i;
    return n;
}

static void put_line(FILE *out, const struct loaded *l, const struct load_run *r, const char *name, int number,
                     bool traced, bool power)
{
    const int n = traced ? r->n_trace : r->n_steps;
    double at_s = 0;

    fprintf(out, "$%s%d << EOD\n", name, number);
    for (int i = 0; i < n; i++) {
        const struct stretch s = stretch_of(l, r, traced, power, i);
        const bool known = isfinite(s.value) && s.value > 0;

        if (known && !traced)
            fprintf(out, "%.6g %.6g\n", at_s, s.value);
        at_s += s.seconds;
        if (known)
            fprintf(out, "%.6g %.6g\n", at_s, s.value);
    }
    fputs("EOD\n", out);
}

static void put_lines(FILE *out, const struct loaded *l, const int *cells, int n, bool traced, bool power)
{
    const char *name = power ? "w" : "m";

    for (int i = 0; i < n; i++)
        put_line(out, l, figures_example(l, cells[i]), name, i, traced, power);
    fprintf(out, "set ylabel '%s' textcolor '#222222'\nplot ",
            power                            ? "W"
            : ratios_gpu_memory(l, cells[0]) ? "MiB (GPU)"
                                             : "MiB (host)");
    for (int i = 0; i < n; i++) {
        fprintf(out, "%s$%s%d using 1:2 with lines linewidth 1.8 linecolor '%s' title ", i ? ", " : "", name, i,
                inks[i]);
        figures_label(out, &l->cells[cells[i]]);
    }
    fputc('\n', out);
}

bool tradeoff_timeline(FILE *out, const struct loaded *l, const char *phase, bool *two)
{
    int memory[MAX_LINES], power[MAX_LINES];
    const bool traced = lines_of(l, phase, true, false, memory) + lines_of(l, phase, true, true, power) > 0;
    const int n_memory = lines_of(l, phase, traced, false, memory), n_power = lines_of(l, phase, traced, true, power);

    *two = n_memory > 0 && n_power > 0;
    if (n_memory + n_power == 0)
        return false;
    fprintf(out,
            "set border 3 linecolor '#888888'\nset grid linecolor '#dddddd' linetype 1\nset tics nomirror textcolor "
            "'#222222'\n"
            "set key outside right top vertical Left reverse textcolor '#222222'\nset yrange [0:*]\n"
            "set xlabel 'seconds of the %s' textcolor '#222222'\n",
            traced ? "run" : "steps");
    if (*two)
        fputs("set multiplot layout 2,1\n", out);
    if (n_memory)
        put_lines(out, l, memory, n_memory, traced, false);
    if (n_power)
        put_lines(out, l, power, n_power, traced, true);
    fputs(*two ? "unset multiplot\n" : "", out);
    return true;
}
