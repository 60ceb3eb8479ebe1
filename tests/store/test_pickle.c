/* Pickles written by hand, opcode by opcode: what a state dict needs is read, everything else is refused by name. */
#include "store/pickle.h"

#include "base/mem.h"
#include "test.h"

#define DICT_OF(members) "\x80\x02}(" members "u."
#define TEXT(length, s) "X" length "\0\0\0" s
#define STORAGE(type, key, count)                                                                                      \
    "(" TEXT("\7", "storage") "ctorch\n" type "\n" TEXT("\1", key) TEXT("\3", "cpu") count "tQ"
#define REBUILD "ctorch._utils\n_rebuild_tensor_v2\n"
#define HOOKS                                                                                                          \
    "\x89"                                                                                                             \
    "ccollections\nOrderedDict\n)R"
#define TENSOR(storage, offset, shape, strides) REBUILD "(" storage offset shape strides HOOKS "tR"
#define A TENSOR(STORAGE("FloatStorage", "0", "K\6"), "K\0", "K\2K\3\x86", "K\3K\1\x86")

struct text {
    const char *at;
    size_t n;
};
#define LITERAL(s)                                                                                                     \
    {                                                                                                                  \
        s, sizeof(s) - 1                                                                                               \
    }

static int parse(struct text t, struct pickle *p, struct err *err)
{
    char *exact = malloc(t.n ? t.n : 1);

    memcpy(exact, t.at, t.n);
    const int result = pickle_parse(p, (const unsigned char *)exact, t.n, "made.bin", err);
    if (result == 0)
        pickle_free(p); /* its names point into exact */
    free(exact);
    return result;
}

TEST(reads_a_state_dict)
{
    static const char text[] = DICT_OF(TEXT("\1", "a") A TEXT("\1", "b") "q\x05" TENSOR(
        STORAGE("HalfStorage", "7", "M\0\1"), "K\x10", "K\4\x85", "K\1\x85"));
    struct err err = { 0 };
    struct pickle p;

    CHECK_OK(pickle_parse(&p, (const unsigned char *)text, sizeof text - 1, "made", &err), &err);
    CHECK_EQ(p.n_tensors, 2);
    CHECK_EQ(p.n_storages, 2);
    CHECK(p.tensors[0].name.n == 1 && p.tensors[0].name.at[0] == 'a');
    CHECK_EQ(p.tensors[0].shape.dim[1], 3);
    CHECK_EQ(p.tensors[0].strides.dim[0], 3);
    CHECK_EQ(p.tensors[1].offset, 16);
    CHECK_EQ(p.storages[1].dtype, F16);
    CHECK_EQ(p.storages[1].count, 256);
    pickle_free(&p);
    pickle_free(&p);
}

TEST(reads_an_ordered_dict_with_metadata_and_memo)
{
    static const char text[] = "\x80\x02"
                               "ccollections\nOrderedDict\nq\0)Rq\1(" TEXT("\1", "a") A
        "q\2" TEXT("\1", "b") "h\2u}" TEXT("\x09", "_metadata") "h\0)R(" TEXT("\0", "") "}" TEXT("\7",
                                                                                                 "version") "K\1susb.";
    struct err err = { 0 };
    struct pickle p;

    CHECK_OK(pickle_parse(&p, (const unsigned char *)text, sizeof text - 1, "made", &err), &err);
    CHECK_EQ(p.n_tensors, 2);
    CHECK_EQ(p.tensors[1].storage, p.tensors[0].storage);
    pickle_free(&p);
}

TEST(refuses_everything_else)
{
    static const struct {
        struct text text;
        const char *says;
    } cases[] = {
        { LITERAL("\x80\x02"
                  "cos\nsystem\n" TEXT("\2", "ls") "\x85R."),
          "\"os.system\"" },
        { LITERAL("\x80\x02"
                  "cbuiltins\neval\n)R."),
          "\"builtins.eval\"" },
        { LITERAL("\x80\x02"
                  "c\x1b[31m\nx\n."),
          "\\x1b" },
        { LITERAL("\x80\x02"
                  "ctorch._utils\n_rebuild_tensor_v2"),
          "without an end" },
        { LITERAL("\x80\x02"
                  "ctorch\nFloatStorage\n)R."),
          "cannot be called" },
        { LITERAL("\x80\x02K\1)R."), "cannot be called" },
        { LITERAL("\x80\x02" REBUILD ")R."), "not made of" },
        { LITERAL("\x80\x02i"), "opcode 0x69 ('i')" },
        { LITERAL("\x80\x02o"), "opcode 0x6f ('o')" },
        { LITERAL("\x80\x02\x81"), "opcode 0x81" },
        { LITERAL("\x80\x02\x93"), "opcode 0x93" },
        { LITERAL("\x80\x04\x95"), "protocol 4" },
        { LITERAL("cos\nsystem\n(S'ls'\ntR."), "os.system" },
        { LITERAL("\x80\x02}"), "ends inside" },
        { LITERAL("\x80\x02X\xff\xff\xff\xffz"), "ends inside" },
        { LITERAL("\x80\x02."), "takes more" },
        { LITERAL("\x80\x02t"), "mark that it did not set" },
        { LITERAL("\x80\x02K\1\x86"), "takes more" },
        { LITERAL("\x80\x02(K\1\x86"), "takes more" },
        { LITERAL("\x80\x02h\0"), "did not remember" },
        { LITERAL("\x80\x02q\0"), "not there" },
        { LITERAL("\x80\x02}r\xff\xff\xff\x7f"), "holes" },
        { LITERAL("\x80\x02}r\xff\xff\xff\xff"), "holes" },
        { LITERAL("\x80\x02}q\5h\4."), "did not remember" },
        { LITERAL("\x80\x02K\1."), "not one dict" },
        { LITERAL("\x80\x02}}."), "not one dict" },
        { LITERAL("\x80\x02K\1(K\2K\3u."), "not a dict" },
        { LITERAL("\x80\x02}(K\2u."), "not a dict" },
        { LITERAL("\x80\x02"
                  "K\1K\2s."),
          "not a dict" },
        { LITERAL("\x80\x02}K\1b."), "attributes" },
        { LITERAL("\x80\x02K\1}b."), "attributes" },
        { LITERAL(DICT_OF("K\1K\2")), "other than named tensors" },
        { LITERAL(DICT_OF(TEXT("\1", "a") "}")), "other than named tensors" },
        { LITERAL(DICT_OF(TEXT("\2", "\xc3(") A)), "UTF-8" },
        { LITERAL(DICT_OF(TEXT("\2", "a\0") A)), "zero bytes" },
        { LITERAL("\x80\x02K\1Q."), "tuple of five" },
        { LITERAL("\x80\x02" STORAGE("FloatStorage", "x", "K\1")), "not a number" },
        { LITERAL("\x80\x02" STORAGE("FloatStorage", "/", "K\1")), "not a number" },
        { LITERAL("\x80\x02" STORAGE("FloatStorage", "0", "J\xff\xff\xff\xff")), "not describe" },
        { LITERAL("\x80\x02" STORAGE("FloatStorage", "0", "\x8a\x09")), "64 bits" },
        { LITERAL(DICT_OF(TEXT("\1", "a")
                              TENSOR(STORAGE("FloatStorage", "0", "K\6"), "J\xff\xff\xff\xff", "K\2\x85", "K\1\x85"))),
          "not made of" },
        { LITERAL(DICT_OF(TEXT("\1", "a")
                              TENSOR(STORAGE("FloatStorage", "0", "K\6"), "K\0", "J\xff\xff\xff\xff\x85", "K\1\x85"))),
          "whole number" },
        { LITERAL(DICT_OF(TEXT("\1", "a") TENSOR(STORAGE("FloatStorage", "0", "K\6"), "K\0", "K\2\x85", ")"))),
          "one stride" },
        { LITERAL(DICT_OF(TEXT("\1", "a") TENSOR(STORAGE("FloatStorage", "0", "K\6"), "K\0", "(K\1K\1K\1K\1K\1K\1K\1t",
                                                 "(K\1K\1K\1K\1K\1K\1K\1t"))),
          "at most 6" },
    };

    for (int i = 0; i < COUNT_OF(cases); i++) {
        struct err err = { 0 };
        struct pickle p;
        CHECK_ERR(parse(cases[i].text, &p, &err), &err, ERR_INPUT, cases[i].says);
        CHECK(!p.tensors && !p.storages);
    }
}

TEST(every_cut_is_refused)
{
    static const struct text whole = LITERAL(DICT_OF(TEXT("\1", "a") A));

    for (size_t n = 0; n < whole.n; n++) {
        struct err err = { 0 };
        struct pickle p;
        CHECK_ERR(parse((struct text){ whole.at, n }, &p, &err), &err, ERR_INPUT, "made.bin");
    }
}

TEST(failing_allocations_leave_nothing)
{
    static const struct text whole = LITERAL(DICT_OF(TEXT("\1", "a") "q\0" A));
    const size_t live = mem_live_bytes(MEM_STORE);
    int n = 1;

    for (;; n++) {
        struct err err = { 0 };
        struct pickle p;

        mem_fail_at(n);
        const int result = parse(whole, &p, &err);
        mem_fail_at(0);
        CHECK_EQ(mem_live_bytes(MEM_STORE), live);
        if (result == 0)
            break;
        CHECK_EQ(err.code, ERR_MEMORY);
    }
    CHECK(n > 5);
}

TEST_MAIN(CASE(reads_a_state_dict), CASE(reads_an_ordered_dict_with_metadata_and_memo), CASE(refuses_everything_else),
          CASE(every_cut_is_refused), CASE(failing_allocations_leave_nothing))
