/* gptq-inspect --tensor: one tensor or one linear, its values and what they
 * are made of; --raw is the bytes alone, for a pipe. */
#include "inspect.h"

#include "../libfmt/base/half.h"
#include "../libfmt/base/mem.h"
#include "../libfmt/values.h"
#include "opt.h"

#include <cjson/cJSON.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct inspect_one {
	const struct survey_layer *layer; /* a quantized linear, or */
	const struct tensor *tensor;      /* any other tensor */
	bool dequant;                     /* only its dequantized weights */
	uint64_t head;                    /* how many elements are shown */
	struct values v;                  /* no tensor, no ql: a type that
					     cannot be decoded */
	struct stats_layer *stats;        /* of a linear */
	struct stats_values values;       /* of a tensor; or count 0 */
};

/* ---- finding it ---- */

static const struct survey_layer *find_layer(const struct inspect *r,
					     const char *name)
{
	for (uint32_t i = 0; i < r->survey.count; i++)
		if (!strcmp(r->survey.layer[i].module->name, name))
			return &r->survey.layer[i];
	return NULL;
}

/* `name` is cut to a module's: of a tensor of it, its own. */
static const struct survey_layer *owner(const struct inspect *r, char *name)
{
	const struct survey_layer *l = find_layer(r, name);
	char *dot = strrchr(name, '.');

	if (l || !dot)
		return l;
	*dot = '\0';
	l = find_layer(r, name);
	*dot = '.';
	return l;
}

static int missing(const struct inspect *r, const char *name, struct err *err)
{
	const struct model *m = r->model;
	const char **names = mem_alloc(m->module_count, sizeof(*names), err);
	const char *near = NULL;

	for (uint32_t i = 0; names && i < m->module_count; i++)
		names[i] = m->module[i].name;
	if (names)
		near = opt_nearest(name, names, m->module_count);
	if (near)
		err_set(err, ERR_INPUT, "%s: no such tensor or module (did "
			"you mean %s?)", name, near);
	else
		err_set(err, ERR_INPUT, "%s: no such tensor or module "
			"(--tensors lists all)", name);
	free(names);
	return -1;
}

/* The name of a tensor, or of a module: what is then meant is its weight. */
static int find(const struct inspect *r, char *name, struct inspect_one *o,
		struct err *err)
{
	const struct qf_module *module;
	char *at = strstr(name, "@dequant");

	o->dequant = at && !strcmp(at, "@dequant");
	if (o->dequant)
		*at = '\0';
	o->tensor = o->dequant ? NULL : model_find(r->model, name);
	if (o->tensor)
		return 0;
	o->layer = o->dequant ? owner(r, name) : find_layer(r, name);
	if (o->layer && o->layer->broken)
		return err_set(err, ERR_UNSUP, "%s: %s", name, o->layer->why);
	if (o->layer && o->layer->format)
		return 0;
	o->layer = NULL;
	module = model_module(r->model, name);
	o->tensor = module ? qf_part(module, "weight") :
			     model_find(r->model, name);
	/* a module of one tensor, such as a rotary table */
	if (!o->tensor && module && module->count == 1)
		o->tensor = &module->part[0];
	return o->tensor ? 0 : missing(r, name, err);
}

/* A packed word's size is no measure of anything. */
static bool has_measure(const struct tensor *t)
{
	return t->type != DT_I32 && t->type != DT_I64;
}

static int gather_tensor(struct inspect *r, struct inspect_one *o,
			 uint32_t threads, struct err *err)
{
	struct stats_job job = { .model = r->model, .survey = &r->survey,
		.threads = threads, .progress = &r->ui->progress };
	bool *layer = mem_alloc(r->survey.count, sizeof(*layer), err);
	bool *tensor = mem_alloc(r->model->tensor_count, sizeof(*tensor), err);
	struct err cannot;
	struct stats s = { NULL, NULL };
	int ret = -1;

	if (!layer || !tensor)
		goto out;
	job.layer = layer;
	job.tensor = tensor;
	tensor[o->tensor - r->model->tensor] = true;
	/* what cannot be decoded is still shown, as bytes */
	if (!values_open_tensor(o->tensor, &o->v, &cannot) &&
	    has_measure(o->tensor)) {
		if (stats_gather(&job, &s, err))
			goto out;
		o->values = s.tensor[o->tensor - r->model->tensor];
	}
	ret = 0;
out:
	stats_release(&s);
	free(layer);
	free(tensor);
	return ret;
}

static int gather_layer(struct inspect *r, struct inspect_one *o,
			struct err *err)
{
	uint64_t *scratch = NULL;
	int ret = -1;

	if (values_open_layer(r->model, o->layer->module, &o->v, err))
		goto out;
	o->stats = mem_alloc(1, sizeof(*o->stats), err);
	scratch = mem_alloc(STATS_SCRATCH(&o->v.ql.spec), sizeof(*scratch),
			    err);
	if (!o->stats || !scratch)
		goto out;
	stats_of_layer(&o->v.ql, scratch, o->stats);
	ret = 0;
out:
	free(scratch);
	return ret;
}

int inspect_one_gather(struct inspect *r, const struct inspect_ask *ask,
		       struct err *err)
{
	struct inspect_one *o = r->one = mem_alloc(1, sizeof(*o), err);
	char *name = mem_text(ask->name, strlen(ask->name), err);
	int ret = -1;

	if (!o || !name || find(r, name, o, err))
		goto out;
	if (o->tensor && !o->tensor->data) {
		err_set(err, ERR_UNSUP, "%s: only its header was read",
			o->tensor->name);
		goto out;
	}
	o->head = ask->head ? (uint64_t)ask->head : ask->raw ? UINT64_MAX : 16;
	if (ask->raw && o->tensor)
		ret = 0; /* the bytes are all that is asked for */
	else if (o->layer)
		ret = gather_layer(r, o, err);
	else
		ret = gather_tensor(r, o, ask->threads, err);
out:
	free(name);
	return ret;
}

void inspect_one_free(struct inspect_one *o)
{
	if (!o)
		return;
	values_release(&o->v);
	free(o->stats);
	free(o);
}

/* ---- --raw ---- */

static uint64_t least(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

#define CHUNK 65536u /* floats on their way out */

/* The first n bytes of all rows, each in its place. */
static void raw_rows(const struct tensor *t, uint64_t n, FILE *out)
{
	uint64_t bytes = t->turned ? t->size / t->dim[0] : t->size;

	for (uint32_t row = 0; n; row++) {
		uint64_t part = n < bytes ? n : bytes;

		fwrite(t->turned ? tensor_row_data(t, row) : t->data, 1,
		       (size_t)part, out);
		n -= part;
	}
}

/* Dequantized weights as f32, row by row. */
static int raw_layer(const struct inspect *r, struct inspect_one *o,
		     struct err *err)
{
	uint64_t all = least(o->head, o->v.count);
	float *x = mem_alloc(CHUNK, sizeof(*x), err);
	uint8_t *bytes = mem_alloc(CHUNK, 4, err);
	int ret = x && bytes ? 0 : -1;

	for (uint64_t i = 0; !ret && i < all && !ferror(r->out); i += CHUNK) {
		uint64_t n = least(all - i, CHUNK);

		values_load(&o->v, i, n, x);
		tensor_store_f32(x, n, DT_F32, bytes);
		fwrite(bytes, 4, (size_t)n, r->out);
		ret = prog_step(&r->ui->progress, "write", i + n, all, err);
	}
	free(x);
	free(bytes);
	return ret;
}

/* A tensor's own bytes; they are little endian in every container. */
int inspect_one_raw(const struct inspect *r, struct err *err)
{
	struct inspect_one *o = r->one;
	uint64_t bits, n;

	if (isatty(fileno(r->out)))
		return err_set(err, ERR_USAGE, "--raw would fill the terminal "
			       "with bytes; send it to a file or a pipe");
	if (o->layer)
		return raw_layer(r, o, err);
	bits = tensor_dtype_bits(o->tensor->type);
	n = o->tensor->size;
	if (o->head < n && o->head * bits / 8 < n)
		n = (o->head * bits + 7) / 8;
	raw_rows(o->tensor, n, r->out);
	return 0;
}

/* ---- text ---- */

static const char *where_text(const struct tensor *t, uint64_t i,
			      char buf[160])
{
	uint64_t at[TENSOR_RANK] = { 0 };
	size_t n = 0;

	for (int d = t->rank; d-- > 0;) {
		at[d] = i % t->dim[d];
		i /= t->dim[d];
	}
	for (int d = 0; d < t->rank; d++)
		n += (size_t)snprintf(buf + n, 160 - n, "%s%llu", d ? "," : "",
				      (unsigned long long)at[d]);
	if (!n)
		snprintf(buf, 160, "-");
	return buf;
}

/* As many digits as the type has; integers whole, the rest as bits. */
static const char *element_text(const struct tensor *t, uint64_t i,
				char buf[32])
{
	uint32_t size = tensor_dtype_bits(t->type) / 8;
	const uint8_t *p = (const uint8_t *)t->data + i * size;
	double d = 0;
	float f = 0;

	if (t->type == DT_I64 || t->type == DT_U64)
		snprintf(buf, 32, t->type == DT_I64 ? "%lld" : "%llu",
			 (long long)half_le64(p));
	else if (t->type == DT_I32 || t->type == DT_U32)
		snprintf(buf, 32, t->type == DT_I32 ? "%d" : "%u",
			 (int)half_le32(p));
	else if (t->type == DT_F64)
		snprintf(buf, 32, "%.17g", (memcpy(&d, p, 8), d));
	else if (!tensor_load_f32(t, i, 1, &f))
		snprintf(buf, 32, "%.*g", t->type == DT_F32 ? 9 : 6,
			 (double)f);
	else if (size)
		snprintf(buf, 32, "0x%02x", *p);
	else /* of half a byte */
		snprintf(buf, 32, "?");
	return buf;
}

ERR_PRINTF(3, 4)
static void row(const struct inspect *r, const char *label, const char *fmt,
		...)
{
	va_list ap;

	fprintf(r->out, "  %s%-11s%s  ", ui_paint(r->ui, r->out, UI_DIM),
		label, ui_paint(r->ui, r->out, UI_OFF));
	va_start(ap, fmt);
	vfprintf(r->out, fmt, ap);
	va_end(ap);
	fputc('\n', r->out);
}

static void values_row(const struct inspect *r, const char *label,
		       const struct stats_values *v)
{
	if (!v->count)
		return;
	row(r, label, "%.6g..%.6g, mean %.4g, std %.4g", v->min, v->max,
	    v->mean, stats_std(v));
	if (v->nan + v->inf + v->zero)
		row(r, "", "%llu of %llu zero, %llu NaN, %llu infinite",
		    (unsigned long long)v->zero, (unsigned long long)v->count,
		    (unsigned long long)v->nan, (unsigned long long)v->inf);
}

static void title(const struct inspect *r, const char *name, const char *tail)
{
	fputs(ui_paint(r->ui, r->out, UI_BOLD), r->out);
	ui_put(r->out, "%s%s", name, tail);
	fprintf(r->out, "%s\n", ui_paint(r->ui, r->out, UI_OFF));
}

static int show_tensor(const struct inspect *r, struct err *err)
{
	static const char *const heads[] = { ">at", ">value" };
	const struct inspect_one *o = r->one;
	const struct tensor *t = o->tensor;
	char text[160], value[32], spark[3 * UI_SPARK + 1], n[32];
	uint64_t count = 0, bits = tensor_dtype_bits(t->type);
	struct ui_table *table = ui_table_new(heads, 2, err);
	int ret;

	if (!table)
		return -1;
	title(r, t->name, "");
	row(r, "type", "%s %s, %s in %s", tensor_dtype_name(t->type),
	    tensor_shape_text(t, text), ui_bytes(t->size, n),
	    model_file_of(r->model, t));
	values_row(r, "values", &o->values);
	if (o->values.count)
		row(r, "magnitudes", "2^%d %s 2^%d", STATS_MAG_LOW,
		    ui_spark(r->ui, o->values.mag, STATS_MAG, STATS_MAG,
			     spark), STATS_MAG_LOW + STATS_MAG);
	if (!tensor_count(t, &count) && bits < 8)
		count = 0;
	for (uint64_t i = 0; i < least(o->head, count); i++) {
		ui_cell(table, "%s", where_text(t, i, text));
		ui_cell(table, "%s", element_text(t, i, value));
	}
	ret = ui_table_print(r->ui, r->out, table, err);
	ui_table_free(table);
	return ret;
}

#define BAR 40

/* A bar for each code; of 8 bits a line, as 256 bars are no picture. */
static void show_codes(const struct inspect *r, const struct stats_layer *l)
{
	uint32_t codes = 1u << l->spec.bits;
	char text[3 * UI_SPARK + 1];
	uint64_t top = 1;

	if (codes > 16) {
		row(r, "codes", "%s",
		    ui_spark(r->ui, l->code, codes, UI_SPARK, text));
		return;
	}
	for (uint32_t i = 0; i < codes; i++)
		top = l->code[i] > top ? l->code[i] : top;
	for (uint32_t i = 0; i < codes; i++)
		row(r, i ? "" : "codes", "%2u %5.2f %%  %s", i,
		    100 * (double)l->code[i] / (double)l->weight.count,
		    ui_bar(r->ui, (double)l->code[i] / (double)top, BAR,
			   text));
}

static void show_spec(const struct inspect *r, const struct inspect_one *o)
{
	const struct ql_spec *s = &o->v.ql.spec;
	const struct qf_module *m = o->layer->module;
	char shape[96];

	row(r, "layer", "%s, %u outputs, %u inputs, %u bits, %u group%s of %u",
	    o->layer->format->name, s->out, s->in, s->bits, s->groups,
	    ui_plural(s->groups), s->group_size);
	row(r, "", "%ssymmetric, act-order %s", s->sym ? "" : "a",
	    s->act_order ? "yes" : "no");
	for (uint32_t i = 0; i < m->count; i++)
		row(r, i ? "" : "tensors", "%-8s %s %s",
		    strrchr(m->part[i].name, '.') + 1,
		    tensor_dtype_name(m->part[i].type),
		    tensor_shape_text(&m->part[i], shape));
}

/* What each of the first weights is made of. */
static int show_weights(const struct inspect *r, struct err *err)
{
	static const char *const heads[] = { ">output", ">input", ">group",
		">code", ">zero", ">scale", ">weight" };
	struct inspect_one *o = r->one;
	const struct ql *ql = &o->v.ql;
	struct ui_table *t = ui_table_new(heads, 7, err);
	int ret;

	if (!t)
		return -1;
	for (uint64_t i = 0; i < least(o->head, o->v.count); i++) {
		size_t n = i / ql->spec.in, k = i % ql->spec.in;
		size_t g = n * ql->spec.groups + ql->group_of[k];
		float w;

		values_load(&o->v, i, 1, &w);
		ui_cell(t, "%zu", n);
		ui_cell(t, "%zu", k);
		ui_cell(t, "%u", ql->group_of[k]);
		ui_cell(t, "%u", ql->code[i]);
		ui_cell(t, "%g", (double)ql->zero[g]);
		ui_cell(t, "%.9g", (double)ql->scale[g]);
		ui_cell(t, "%.9g", (double)w);
	}
	ret = ui_table_print(r->ui, r->out, t, err);
	ui_table_free(t);
	return ret;
}

/* The first weights as a dense tensor's would be. */
static int show_dequant(const struct inspect *r, struct err *err)
{
	static const char *const heads[] = { ">at", ">value" };
	struct inspect_one *o = r->one;
	struct ui_table *t = ui_table_new(heads, 2, err);
	int ret;

	if (!t)
		return -1;
	row(r, "type", "F32 [%u, %u], dequantized", o->v.ql.spec.out,
	    o->v.ql.spec.in);
	values_row(r, "values", &o->stats->weight);
	for (uint64_t i = 0; i < least(o->head, o->v.count); i++) {
		float w;

		values_load(&o->v, i, 1, &w);
		ui_cell(t, "%llu,%llu", (unsigned long long)(i / o->v.dim[1]),
			(unsigned long long)(i % o->v.dim[1]));
		ui_cell(t, "%.9g", (double)w);
	}
	ret = ui_table_print(r->ui, r->out, t, err);
	ui_table_free(t);
	return ret;
}

int inspect_one_show(const struct inspect *r, struct err *err)
{
	const struct inspect_one *o = r->one;

	if (o->tensor)
		return show_tensor(r, err);
	title(r, o->layer->module->name, o->dequant ? "@dequant" : "");
	if (o->dequant)
		return show_dequant(r, err);
	show_spec(r, o);
	values_row(r, "scales", &o->stats->scale);
	row(r, "zeros", "%g..%g", o->stats->zero.min, o->stats->zero.max);
	values_row(r, "weights", &o->stats->weight);
	row(r, "entropy", "%.3f of %u bits", o->stats->entropy,
	    o->v.ql.spec.bits);
	show_codes(r, o->stats);
	return show_weights(r, err);
}

/* ---- JSON ---- */

static void json_shape(struct cJSON *j, int rank, const uint64_t *dim)
{
	struct cJSON *shape = cJSON_AddArrayToObject(j, "shape");

	for (int d = 0; d < rank; d++)
		cJSON_AddItemToArray(shape,
				     cJSON_CreateNumber((double)dim[d]));
}

/* The first values; of a type that cannot be decoded, null. */
static void json_values(struct cJSON *j, struct inspect_one *o)
{
	struct cJSON *list;

	if (!o->v.tensor && !o->layer) {
		cJSON_AddNullToObject(j, "values");
		return;
	}
	list = cJSON_AddArrayToObject(j, "values");
	for (uint64_t i = 0; i < least(o->head, o->v.count); i++) {
		char text[32];
		float w = 0;

		/* by its text, which is exact where f32 is not */
		if (o->tensor) {
			element_text(o->tensor, i, text);
		} else {
			values_load(&o->v, i, 1, &w);
			snprintf(text, sizeof(text), "%.9g", (double)w);
		}
		cJSON_AddItemToArray(list, cJSON_CreateNumber(strtod(text,
								     NULL)));
	}
}

/* Codes and groups of the first weights, and the grid of all groups they are
 * in is found by `group` in row output. */
static void json_codes(struct cJSON *j, const struct inspect_one *o)
{
	const struct ql *ql = &o->v.ql;
	struct cJSON *list[4];
	static const char *const key[] = { "codes", "groups", "scales",
		"zeros" };

	for (int i = 0; i < 4; i++)
		list[i] = cJSON_AddArrayToObject(j, key[i]);
	for (uint64_t i = 0; i < least(o->head, o->v.count); i++) {
		size_t n = i / ql->spec.in, k = i % ql->spec.in;
		size_t g = n * ql->spec.groups + ql->group_of[k];
		const double v[] = { ql->code[i], ql->group_of[k],
			(double)ql->scale[g], (double)ql->zero[g] };

		for (int c = 0; c < 4; c++)
			cJSON_AddItemToArray(list[c],
					     cJSON_CreateNumber(v[c]));
	}
}

void inspect_one_json(struct cJSON *top, const struct inspect *r)
{
	struct inspect_one *o = r->one;
	struct cJSON *j = cJSON_AddObjectToObject(top, "tensor");

	if (o->tensor) {
		ui_json_text(j, "name", o->tensor->name);
		ui_json_text(j, "dtype", tensor_dtype_name(o->tensor->type));
		json_shape(j, o->tensor->rank, o->tensor->dim);
		if (o->values.count)
			inspect_stats_json(j, "stats", &o->values);
	} else {
		ui_json_text(j, "name", o->layer->module->name);
		ui_json_text(j, "dtype", "F32");
		json_shape(j, 2, o->v.dim);
		inspect_stats_layer_json(j, o->stats);
		if (!o->dequant)
			json_codes(j, o);
	}
	json_values(j, o);
}
