/* Collectives over MPI: the one file that knows mpi.h. Counts are int there, so long vectors go in pieces. */
#include "comm/comm.h"

#include <mpi.h>
#include <stdio.h>
#include <string.h>

#define PIECE ((int64_t)1 << 28)

static MPI_Datatype bf16_type;
static MPI_Op bf16_sum;

static void add_bf16(void *in, void *inout, int *n, MPI_Datatype *type)
{
    const uint16_t *a = in;
    uint16_t *b = inout;

    (void)type;
    for (int i = 0; i < *n; i++)
        b[i] = bf16_from_f32(bf16_to_f32(a[i]) + bf16_to_f32(b[i]));
}

static MPI_Datatype type_of(enum dtype t)
{
    MUST(t == F32 || t == F64 || t == BF16);
    return t == F32 ? MPI_FLOAT : t == F64 ? MPI_DOUBLE : bf16_type;
}

static MPI_Op sum_of(enum dtype t)
{
    return t == BF16 ? bf16_sum : MPI_SUM;
}

static int checked(int code, const char *what, struct err *err)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int n = 0;

    if (code == MPI_SUCCESS)
        return 0;
    MPI_Error_string(code, text, &n);
    return err_set(err, ERR_RUN, "%s failed: %s", what, text);
}

static int mpi_all_reduce(struct comm *c, void *x, int64_t n, enum dtype t, struct err *err)
{
    (void)c;
    for (int64_t at = 0; at < n; at += PIECE) {
        const int count = (int)(n - at < PIECE ? n - at : PIECE);
        char *piece = (char *)x + (size_t)at * dtype_bytes(t);
        if (checked(MPI_Allreduce(MPI_IN_PLACE, piece, count, type_of(t), sum_of(t), MPI_COMM_WORLD), "all-reduce",
                    err))
            return -1;
    }
    return 0;
}

static int mpi_reduce_scatter(struct comm *c, void *x, int64_t n, enum dtype t, struct err *err)
{
    MUST(n < PIECE);
    if (checked(MPI_Reduce_scatter_block(MPI_IN_PLACE, x, (int)n, type_of(t), sum_of(t), MPI_COMM_WORLD),
                "reduce-scatter", err))
        return -1;
    /* In place, MPI leaves the result at the beginning. */
    if (c->rank > 0)
        memcpy((char *)x + (size_t)(c->rank * n) * dtype_bytes(t), x, (size_t)n * dtype_bytes(t));
    return 0;
}

static int mpi_all_gather(struct comm *c, void *x, int64_t n, enum dtype t, struct err *err)
{
    (void)c;
    const size_t size = dtype_bytes(t);
    MPI_Datatype elements, spaced;
    int code = MPI_SUCCESS;

    /* Each rank's piece is one element of a type that is as long as a rank's part: so a long vector goes in pieces too. */
    for (int64_t at = 0; at < n && code == MPI_SUCCESS; at += PIECE) {
        const int count = (int)(n - at < PIECE ? n - at : PIECE);
        if (n <= PIECE) {
            code = MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, x, count, type_of(t), MPI_COMM_WORLD);
            continue;
        }
        code = MPI_Type_contiguous(count, type_of(t), &elements);
        if (code == MPI_SUCCESS)
            code = MPI_Type_create_resized(elements, 0, (MPI_Aint)((size_t)n * size), &spaced);
        if (code == MPI_SUCCESS)
            code = MPI_Type_commit(&spaced);
        if (code == MPI_SUCCESS)
            code = MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, (char *)x + (size_t)at * size, 1, spaced,
                                 MPI_COMM_WORLD);
        if (code == MPI_SUCCESS)
            code = MPI_Type_free(&spaced);
        if (code == MPI_SUCCESS)
            code = MPI_Type_free(&elements);
    }
    return checked(code, "all-gather", err);
}

static int mpi_gather_bytes(struct comm *c, const void *own, void *all, int64_t n, struct err *err)
{
    (void)c;
    MUST(n < INT32_MAX);
    return checked(MPI_Gather(own, (int)n, MPI_BYTE, all, (int)n, MPI_BYTE, 0, MPI_COMM_WORLD), "gather", err);
}

static int mpi_broadcast(struct comm *c, void *bytes, int64_t n, struct err *err)
{
    (void)c;
    for (int64_t at = 0; at < n; at += PIECE) {
        const int count = (int)(n - at < PIECE ? n - at : PIECE);
        if (checked(MPI_Bcast((char *)bytes + at, count, MPI_BYTE, 0, MPI_COMM_WORLD), "broadcast", err))
            return -1;
    }
    return 0;
}

static int mpi_send(struct comm *c, const void *bytes, int64_t n, int to, struct err *err)
{
    (void)c;
    for (int64_t at = 0; at < n; at += PIECE) {
        const int count = (int)(n - at < PIECE ? n - at : PIECE);
        if (checked(MPI_Send((const char *)bytes + at, count, MPI_BYTE, to, 0, MPI_COMM_WORLD), "send", err))
            return -1;
    }
    return 0;
}

static int mpi_receive(struct comm *c, void *bytes, int64_t n, int from, struct err *err)
{
    (void)c;
    for (int64_t at = 0; at < n; at += PIECE) {
        const int count = (int)(n - at < PIECE ? n - at : PIECE);
        if (checked(MPI_Recv((char *)bytes + at, count, MPI_BYTE, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE),
                    "receive", err))
            return -1;
    }
    return 0;
}

static int mpi_barrier(struct comm *c, struct err *err)
{
    (void)c;
    return checked(MPI_Barrier(MPI_COMM_WORLD), "barrier", err);
}

static void mpi_abort(struct comm *c, int status)
{
    (void)c;
    fflush(NULL);
    MPI_Abort(MPI_COMM_WORLD, status);
}

static void mpi_close(struct comm *c)
{
    if (c->ranks == 0)
        return;
    MPI_Op_free(&bf16_sum);
    MPI_Type_free(&bf16_type);
    MPI_Finalize();
    c->ranks = 0;
}

static int count_local_ranks(int *out)
{
    MPI_Comm local;
    int code = MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &local);

    if (code == MPI_SUCCESS)
        code = MPI_Comm_size(local, out);
    if (code == MPI_SUCCESS)
        code = MPI_Comm_free(&local);
    return code;
}

int comm_mpi(struct comm *c, struct err *err)
{
    int provided;

    *c = (struct comm){ 0 };
    if (checked(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided), "starting MPI", err))
        return -1;
    *c = (struct comm){ .name = "mpi",
                        .all_reduce = mpi_all_reduce,
                        .reduce_scatter = mpi_reduce_scatter,
                        .all_gather = mpi_all_gather,
                        .gather_bytes = mpi_gather_bytes,
                        .broadcast = mpi_broadcast,
                        .send = mpi_send,
                        .receive = mpi_receive,
                        .barrier = mpi_barrier,
                        .abort = mpi_abort,
                        .close = mpi_close };
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    if (checked(MPI_Comm_rank(MPI_COMM_WORLD, &c->rank), "asking for the rank", err) ||
        checked(MPI_Comm_size(MPI_COMM_WORLD, &c->ranks), "asking for the number of ranks", err) ||
        checked(count_local_ranks(&c->local_ranks), "asking for the ranks of this machine", err) ||
        checked(MPI_Type_contiguous(2, MPI_BYTE, &bf16_type), "defining bf16", err) ||
        checked(MPI_Type_commit(&bf16_type), "defining bf16", err) ||
        checked(MPI_Op_create(add_bf16, 1, &bf16_sum), "defining the sum of bf16", err))
        return -1;
    return 0;
}
