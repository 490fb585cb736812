/* graph.cu - operations recorded once and run again as one: a CUDA graph of what
 * was put on the stream meanwhile.
 *
 * Launching a kernel costs the host 2 to 3 us, a decoder block is 14 of them;
 * a graph costs as much as a few.  Arguments stay as they were, so what changes
 * from run to run has to be in device memory, and the scratch must not move. */
#include "cu.cuh"

#include <new>

struct be_graph {
	cudaGraphExec_t exec;
	uint64_t moved; /* be->moved then */
};

int cu_record(struct be *be, struct err *err)
{
	CU_TRY(cudaStreamBeginCapture(be->stream,
				      cudaStreamCaptureModeThreadLocal),
	       "recording", err);
	be->recording = 1;
	/* what is kept as f16 now need not be then */
	be->x16.p = NULL;
	return 0;
}

int cu_recorded(struct be *be, struct be_graph **out, struct err *err)
{
	struct be_graph *g = new (std::nothrow) struct be_graph();
	cudaGraph_t graph = NULL;
	cudaError_t e = cudaStreamEndCapture(be->stream, &graph);

	*out = NULL;
	be->recording = 0;
	be->x16.p = NULL; /* nothing has run */
	if (e == cudaSuccess && g)
		e = cudaGraphInstantiate(&g->exec, graph, 0);
	if (graph)
		cudaGraphDestroy(graph);
	if (e == cudaSuccess && g) {
		g->moved = be->moved;
		*out = g;
		return 0;
	}
	if (!g)
		return err_set(err, ERR_RESOURCE, "not enough memory");
	delete g;
	return cu_fail(e, "recording", err);
}

int cu_replay(struct be *be, struct be_graph *g, struct err *err)
{
	if (g->moved != be->moved)
		return 1;
	be->x16.p = NULL;
	CU_TRY(cudaGraphLaunch(g->exec, be->stream), "a recorded pass", err);
	return 0;
}

void cu_graph_free(struct be *be, struct be_graph *g)
{
	if (!g)
		return;
	(void)cudaStreamSynchronize(be->stream);
	cudaGraphExecDestroy(g->exec);
	delete g;
}
