/* csv_import_records on any bytes: rows become records with a number of seconds, or the file is refused by its line. */
#include <stddef.h>
#include <stdint.h>

#include "base/mem.h"
#include "report/csv_import.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    struct err err = { 0 };
    size_t i;
    json_t *record;
    json_t *all = csv_import_records((const char *)bytes, size, "fuzz", size % 2 ? "label" : NULL, &err);

    MUST(all || (err.code == ERR_INPUT && err.what[0] != '\0'));
    json_array_foreach(all, i, record)
    {
        MUST(json_number_value(json_object_get(record, "seconds")) >= 0);
        MUST(json_is_string(json_object_get(record, "label")));
    }
    json_decref(all);
    MUST(mem_live_bytes(MEM_RECORD) == 0);
    return 0;
}
