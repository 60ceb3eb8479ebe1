/* Tokenizer files and a text from one input. The input is cut at each 0x1E byte into vocab.json, merges.txt,
 * tokenizer_config.json, special_tokens_map.json, added_tokens.json and a text; when the first part begins with 'T' what
 * follows in it is a tokenizer.json. What is accepted must encode its text to ids that it has, and give back the same
 * bytes where every byte has a token. */
#include <stdint.h>
#include <string.h>

#include "base/mem.h"
#include "text/bpe.h"
#include "text/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static struct bpe_file next_part(const char **at, const char *end, const char *name)
{
    const char *start = *at, *stop = memchr(start, 0x1E, (size_t)(end - start));

    if (!stop)
        stop = end;
    *at = stop < end ? stop + 1 : end;
    return (struct bpe_file){ name, start == end ? NULL : start, (size_t)(stop - start) };
}

static bool all_bytes_known(const struct bpe *b)
{
    for (int i = 0; i < 256; i++)
        if (b->vocab.byte_id[i] < 0)
            return false;
    return true;
}

static void use(const struct bpe *b, const char *text, size_t n)
{
    struct err err;
    int32_t *ids;
    int64_t n_ids;
    char *back;
    size_t n_back;

    if (bpe_encode(b, text, n, false, &ids, &n_ids, &err) != 0) {
        MUST(err.code == ERR_INPUT && unicode_check(text, n) < n);
        return;
    }
    for (int64_t i = 0; i < n_ids; i++)
        MUST(ids[i] >= 0 && ids[i] < bpe_vocab_size(b));
    MUST(bpe_decode(b, ids, n_ids, &back, &n_back, &err) == 0);
    MUST(unicode_check(back, n_back) == n_back);
    if (all_bytes_known(b))
        MUST(n_back == n && memcmp(back, text, n) == 0);
    mem_free(ids);
    mem_free(back);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    const char *at = (const char *)bytes, *end = at + size;
    struct bpe_files files = { 0 };
    struct err err = { 0 };
    struct bpe *b;

    if (size == 0)
        return 0;
    files.vocab = next_part(&at, end, "vocab.json");
    if (bytes[0] == 'T') {
        files.tokenizer = (struct bpe_file){ "tokenizer.json", files.vocab.text + 1, files.vocab.n - 1 };
        files.vocab.text = NULL;
    }
    files.merges = next_part(&at, end, "merges.txt");
    if (!files.merges.text)
        files.merges.text = "";
    files.config = next_part(&at, end, "tokenizer_config.json");
    files.special = next_part(&at, end, "special_tokens_map.json");
    files.added = next_part(&at, end, "added_tokens.json");
    if (files.config.n == 0)
        files.config.text = NULL;
    if (files.special.n == 0)
        files.special.text = NULL;
    if (files.added.n == 0)
        files.added.text = NULL;
    if (bpe_parse(&b, &files, &err) != 0) {
        MUST(err.code == ERR_INPUT && err.what[0]);
        return 0;
    }
    use(b, at, (size_t)(end - at));
    bpe_close(b);
    return 0;
}
