/* What a run will take: --plan prints it, --max-memory is held against it. */
#include "quantize.h"

#include "../libfmt/base/io.h"
#include "../libfmt/base/io_place.h"
#include "../libfmt/base/json.h"
#include "../libfmt/base/mem.h"
#include "../libfmt/model.h"

#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

/* The program itself, its libraries and tables, where nothing is loaded. */
#define PROGRAM ((uint64_t)16 << 20)

bool quantize_has_weights(const char *path)
{
	static const char *const ends[] = { ".safetensors", ".bin", ".pt",
					    ".pth", ".gguf" };
	struct err unused;
	bool found = false;
	uint32_t count;
	char **name;

	if (!io_is_dir(path) || io_list(path, &name, &count, &unused))
		return true;
	for (uint32_t i = 0; i < count; i++)
		for (size_t k = 0; k < sizeof(ends) / sizeof(ends[0]); k++)
			found |= call_ends_in(name[i], ends[k]);
	free(name);
	return found;
}

static bool has_own_memory(const struct quantize *j)
{
	return j->dev.api && strcmp(j->dev.api->name, "cpu") &&
	       strcmp(j->dev.api->name, "ref");
}

/* Bytes of a dense weight: by its tensor, or as the config says. */
static uint32_t weight_bytes(const struct quantize *j)
{
	const struct qf_module *m = model_module(j->model,
						 j->targets.target[0].weight);
	const struct tensor *t = m ? qf_part(m, "weight") : NULL;
	const char *type = json_text(json_find(j->model->config, "dtype"));

	if (!type)
		type = json_text(json_find(j->model->config, "torch_dtype"));
	if (t ? t->type == DT_F32 : type && !strcmp(type, "float32"))
		return 4;
	return 2;
}

/* All tensors': of the open files, else as the index has it. */
static uint64_t source_bytes(const struct quantize *j)
{
	struct cJSON *index = NULL;
	uint64_t n = 0;
	struct err unused;

	if (j->model->file_count)
		return j->before;
	if (!io_place_json(model_place(j->model),
			   "model.safetensors.index.json", &index, &unused))
		json_uint(json_find(json_find(index, "metadata"),
				    "total_size"), UINT64_MAX, &n);
	json_free(index);
	return n;
}

static int make(struct quantize *j, uint64_t base, struct err *err)
{
	struct gq_source s = {
		.bytes = source_bytes(j), .elem = weight_bytes(j),
		.apart = has_own_memory(j), .base = base,
	};

	return gq_plan_make(&j->job, &j->targets, &s, &j->plan, err);
}

/* ---- within the limits? ---- */

/* Where the scratch file goes. */
static const char *scratch_dir(const struct quantize *j)
{
	const char *dir = getenv("TMPDIR");

	return dir && dir[0] ? dir : j->beside;
}

/* The directory that the output is in. */
static int set_beside(struct quantize *j, struct err *err)
{
	const char *out = j->args->output ? j->args->output : ".";
	size_t n = strlen(out);

	while (n > 1 && out[n - 1] == '/')
		n--;
	while (n && out[n - 1] != '/')
		n--;
	while (n > 1 && out[n - 1] == '/')
		n--;
	j->beside = n ? mem_text(out, n, err) : mem_text(".", 1, err);
	return j->beside ? 0 : -1;
}

static int too_much(const struct gq_peak *need, uint64_t limit,
		    const char *option, struct err *err)
{
	char a[32], b[32];

	return err_set(err, ERR_RESOURCE, "%s of memory are needed (%s), %s "
		       "%s", ui_bytes(need->bytes, a), need->at,
		       ui_bytes(limit, b), option);
}

/* Activations stay in memory where there is room for them. */
static int choose(struct quantize *j, struct err *err)
{
	const struct quantize_args *a = j->args;
	const struct gq_plan *p = &j->plan;
	uint64_t device = a->max_device_memory ? a->max_device_memory :
						 UINT64_MAX;

	if (a->max_device_memory && !has_own_memory(j))
		return err_set(err, ERR_USAGE, "--max-device-memory: the CPU "
			       "has no memory of its own; --max-memory limits "
			       "it");
	j->limit = a->max_memory ? a->max_memory :
				   mem_available() + mem_resident();
	j->spill = p->memory[0].bytes > j->limit ||
		   p->device[0].bytes > device;
	if (p->memory[j->spill].bytes > j->limit)
		return too_much(&p->memory[j->spill], j->limit,
				a->max_memory ? "is the limit (--max-memory)" :
				"are free", err);
	if (p->device[j->spill].bytes > device)
		return too_much(&p->device[j->spill], device,
				"is the limit (--max-device-memory)", err);
	return 0;
}

int quantize_fit(struct quantize *j, struct err *err)
{
	char a[32], b[32];

	mem_give_back();
	if (set_beside(j, err) || make(j, mem_resident(), err) ||
	    choose(j, err))
		return -1;
	if (j->args->max_memory && mem_peak() > j->limit)
		return err_set(err, ERR_RESOURCE, "%s of memory were taken "
			       "before the work began (calibration text, "
			       "tokenizer), %s is the limit (--max-memory)",
			       ui_bytes(mem_peak(), a),
			       ui_bytes(j->limit, b));
	if (j->spill)
		j->job.scratch = scratch_dir(j);
	ui_detail(j->call->ui, "at most %s of memory, activations (%s) %s%s",
		  ui_bytes(j->plan.memory[j->spill].bytes, a),
		  ui_bytes(j->plan.activations, b),
		  j->spill ? "in a scratch file in " : "in memory",
		  j->spill ? j->job.scratch : "");
	return 0;
}

struct cJSON *quantize_memory_json(const struct quantize *j)
{
	struct cJSON *o = cJSON_CreateObject();

	cJSON_AddNumberToObject(o, "limit", (double)j->limit);
	cJSON_AddNumberToObject(o, "planned",
				(double)j->plan.memory[j->spill].bytes);
	cJSON_AddNumberToObject(o, "peak", (double)mem_peak());
	cJSON_AddBoolToObject(o, "activations_in_file", j->spill);
	return o;
}

/* ---- --plan ---- */

static double percent(uint64_t part, uint64_t all)
{
	return all ? 100.0 * (double)part / (double)all : 0;
}

static double bits_per_weight(const struct gq_plan *p)
{
	return p->weights ? 8.0 * (double)p->packed / (double)p->weights : 0;
}

static void print_memory(const struct quantize *j)
{
	const struct gq_plan *p = &j->plan;
	char a[32], b[32], c[32];

	printf("  memory       %s with activations %s, %s\n",
	       ui_bytes(p->memory[j->spill].bytes, a),
	       j->spill ? "in a scratch file" : "in memory",
	       p->memory[j->spill].at);
	if (p->activations)
		printf("               (%s %s); %s %s\n",
		       ui_bytes(p->memory[!j->spill].bytes, b),
		       j->spill ? "with them in memory" :
				  "with them in a scratch file",
		       ui_bytes(j->limit, c),
		       j->args->max_memory ? "is the limit" : "are free");
	if (p->device[0].bytes)
		printf("  device       %s, %s\n",
		       ui_bytes(p->device[j->spill].bytes, a),
		       p->device[j->spill].at);
}

static void print_disk(const struct quantize *j)
{
	const struct gq_plan *p = &j->plan;
	char a[32], b[32], c[32];

	printf("  disk         %s for the output", ui_bytes(p->after, a));
	if (j->spill)
		printf(", %s of scratch in %s", ui_bytes(p->activations, b),
		       scratch_dir(j));
	printf("; %s are free\n", ui_bytes(io_free_space(j->beside), c));
}

static void print_work(const struct quantize *j)
{
	const struct gq_plan *p = &j->plan;
	char time[32];

	if (p->passes)
		printf("  calibration  %u windows of %u tokens, %llu passes "
		       "through a block\n", j->calib.samples, j->calib.seqlen,
		       (unsigned long long)p->passes);
	printf("  time         about %s on %s\n", ui_time(j->estimate, time),
	       j->dev.api->describe(j->dev.be));
}

static void print_text(const struct quantize *j)
{
	const struct gq_plan *p = &j->plan;
	const struct gq_params *q = &j->job.params;
	char a[32], b[32], group[32] = "one group per row";

	if (q->group_size != -1)
		snprintf(group, sizeof(group), "groups of %d", q->group_size);
	printf("%s\n", j->call->model);
	printf("  what         %s, %u bits, %s, %s, format %s\n",
	       j->method->name, q->bits, group,
	       q->sym ? "symmetric" : "asymmetric", j->format->name);
	printf("  model        %s parameters in %u blocks, %llu of %u linears "
	       "quantized\n", ui_count(p->parameters, a), j->cfg.layers,
	       (unsigned long long)p->linears, j->targets.count);
	printf("  size         %s -> %s (%.1f %%), %.3f bits per weight\n",
	       ui_bytes(p->before, a), ui_bytes(p->after, b),
	       percent(p->after, p->before), bits_per_weight(p));
	print_memory(j);
	print_disk(j);
	print_work(j);
}

static struct cJSON *peak_json(const struct quantize *j, uint64_t limit,
			       const struct gq_peak *p)
{
	struct cJSON *o = cJSON_CreateObject();

	cJSON_AddNumberToObject(o, "bytes", (double)p[j->spill].bytes);
	ui_json_text(o, "where", p[j->spill].at);
	cJSON_AddNumberToObject(o, "activations_in_memory",
				(double)p[0].bytes);
	cJSON_AddNumberToObject(o, "activations_in_file", (double)p[1].bytes);
	if (limit)
		cJSON_AddNumberToObject(o, "limit", (double)limit);
	return o;
}

static struct cJSON *plan_json(const struct quantize *j, const char *problem)
{
	const struct gq_plan *p = &j->plan;
	struct cJSON *o = cJSON_CreateObject(), *disk;
	uint64_t spare = io_free_space(j->beside);

	ui_json_text(o, "model", j->call->model);
	ui_json_text(o, "method", j->method->name);
	ui_json_text(o, "format", j->format->name);
	cJSON_AddNumberToObject(o, "bits", j->job.params.bits);
	cJSON_AddNumberToObject(o, "group_size", j->job.params.group_size);
	cJSON_AddNumberToObject(o, "parameters", (double)p->parameters);
	cJSON_AddNumberToObject(o, "linears", (double)p->linears);
	cJSON_AddNumberToObject(o, "bytes_before", (double)p->before);
	cJSON_AddNumberToObject(o, "bytes", (double)p->after);
	cJSON_AddNumberToObject(o, "bits_per_weight", bits_per_weight(p));
	cJSON_AddItemToObject(o, "memory", peak_json(j, j->limit, p->memory));
	if (p->device[0].bytes)
		cJSON_AddItemToObject(o, "device_memory",
			peak_json(j, j->args->max_device_memory, p->device));
	disk = cJSON_AddObjectToObject(o, "disk");
	cJSON_AddNumberToObject(disk, "output", (double)p->after);
	cJSON_AddNumberToObject(disk, "scratch",
				j->spill ? (double)p->activations : 0);
	cJSON_AddNumberToObject(disk, "free", (double)spare);
	cJSON_AddNumberToObject(o, "samples", j->calib.samples);
	cJSON_AddNumberToObject(o, "seqlen", j->calib.seqlen);
	cJSON_AddNumberToObject(o, "passes", (double)p->passes);
	cJSON_AddNumberToObject(o, "seconds", j->estimate);
	ui_json_text(o, "device", j->dev.api->describe(j->dev.be));
	ui_json_text(o, "problem", problem);
	return o;
}

static int check_disk(const struct quantize *j, struct err *err)
{
	uint64_t spare = io_free_space(j->beside), need = j->plan.after;
	char a[32], b[32];

	if (j->spill && !strcmp(scratch_dir(j), j->beside))
		need += j->plan.activations;
	if (need <= spare)
		return 0;
	return err_set(err, ERR_RESOURCE, "%s of disk are needed, %s are free "
		       "in %s", ui_bytes(need, a), ui_bytes(spare, b),
		       j->beside);
}

/* A plan that does not fit is printed like any other, but ends with the status
 * that the run would have. */
int quantize_print_plan(struct quantize *j, struct err *err)
{
	uint64_t ids = (uint64_t)j->calib.samples * j->calib.seqlen * 4;
	struct err lack = { 0, "" };

	j->job.calib = j->method->needs_hessian ? &j->calib : NULL;
	j->job.api = j->dev.api;
	j->job.be = j->dev.be;
	if (set_beside(j, err) || make(j, PROGRAM + 2 * ids, err))
		return -1;
	if (choose(j, &lack) && lack.code != ERR_RESOURCE) {
		*err = lack;
		return -1;
	}
	if (!lack.code)
		check_disk(j, &lack);
	if (gq_plan_seconds(&j->job, &j->plan.work, &j->estimate, err))
		return -1;
	if (j->call->ui->json) {
		if (ui_json(stdout, plan_json(j, lack.code ? lack.msg : NULL),
			    err))
			return -1;
	} else {
		print_text(j);
	}
	if (!lack.code)
		return 0;
	if (j->call->ui->json)
		return lack.code;
	*err = lack;
	return -1;
}
