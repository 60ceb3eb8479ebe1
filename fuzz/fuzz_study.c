/* study_file_parse on any bytes: what it accepts can be finished, ordered and written down, or is refused by name. */
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "study/study_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void use(struct cells *s)
{
    struct err err = { 0 };
    int order[CELLS_MAX];

    if (cells_finish(s, &(struct cells_choice){ 0 }, &err) != 0) {
        MUST(err.what[0] != '\0');
        return;
    }
    cells_order(s, 0, order);
    for (int i = 0; i < s->n_cells; i++)
        MUST(order[i] >= 0 && order[i] < s->n_cells && cells_baseline(s, i) >= 0 && s->cells[i].argv.n > 0);
    json_t *spec = cells_json(s);
    MUST(spec != NULL);
    json_decref(spec);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct err err = { 0 };
    struct cells s;

    if (study_file_parse(&s, (const char *)bytes, size, "fuzz", &err) == 0)
        use(&s);
    else
        MUST(err.code == ERR_INPUT || err.code == ERR_USAGE);
    cells_free(&s);
    MUST(mem_live_bytes(MEM_RECORD) == 0);
    return 0;
}
