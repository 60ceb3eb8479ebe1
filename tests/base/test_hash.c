/* base/hash: the published value of XXH3, and pieces against the whole. */
#include "base/hash.h"
#include "test.h"

TEST(empty_input_has_the_published_value)
{
    CHECK(hash_bytes("", 0) == 0x2d06800538d394c2); /* xxHash's specification: XXH3_64bits, seed 0 */
}

TEST(pieces_are_the_whole)
{
    struct err err = { 0 };
    struct hash_stream *h = hash_open(&err);
    uint8_t bytes[1000];

    CHECK(h);
    for (int i = 0; i < COUNT_OF(bytes); i++)
        bytes[i] = (uint8_t)(i * 7);
    hash_step(h, bytes, 1);
    hash_step(h, bytes + 1, 300);
    hash_step(h, bytes + 301, 0);
    hash_step(h, bytes + 301, sizeof bytes - 301);
    CHECK(hash_value(h) == hash_bytes(bytes, sizeof bytes));
    bytes[999] ^= 1;
    CHECK(hash_value(h) != hash_bytes(bytes, sizeof bytes));
    hash_close(h);
    hash_close(NULL);
}

TEST_MAIN(CASE(empty_input_has_the_published_value), CASE(pieces_are_the_whole))
