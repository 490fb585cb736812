#include "model_impl.h"

#include "base/err.h"
#include "base/io.h"
#include "base/io_place.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/net_addr.h"
#include "container/st.h"
#include "container/tensor_file.h"
#include "llama_gguf.h"
#include "model_files.h"
#include "model_fused.h"
#include "model_rules.h"
#include "model_second.h"
#include "model_tidy.h"

#include <stdlib.h>
#include <string.h>

/* ---- paths and configs ---- */

/* What a server is asked for in one go. */
static const char *const small_files[] = { "config.json",
	"quantize_config.json", "quant_config.json", "generation_config.json",
	MODEL_INDEX, "pytorch_model.bin.index.json" };

static int set_paths(struct model *m, struct err *err)
{
	const struct model_priv *p = m->priv;
	const char *path = io_place_path(p->place);
	const char *dir = io_place_dir(p->place);

	m->path = mem_text(path, strlen(path), err);
	m->dir = mem_text(dir, strlen(dir), err);
	m->is_dir = !io_place_file(p->place);
	return m->path && m->dir ? 0 : -1;
}

/* The object DIR/name, when it is there. */
static int read_optional(const struct model *m, const char *name,
			 struct cJSON **out, struct err *err)
{
	const struct model_priv *p = m->priv;

	if (io_place_json(p->place, name, out, err))
		return -1;
	if (*out && !json_is_object(*out))
		return err_set(err, ERR_INPUT, "%s/%s: not a JSON object",
			       m->dir, name);
	return 0;
}

/* What the trees say. */
static int read_trees(struct model *m, struct err *err)
{
	struct model_priv *p = m->priv;
	struct err ignored;

	if (config_quant_read(m->config, m->quantize, &m->quant, err))
		return err_ctx(err, "%s", m->dir);
	if (m->quant.disagree)
		m->odd |= MODEL_ODD_CONFIGS;
	p->is_llama = m->config && !llama_config_read(m->config, p->generation,
						      &p->llama, &ignored);
	return 0;
}

static int read_configs(struct model *m, struct err *err)
{
	struct model_priv *p = m->priv;

	if (io_place_gather(p->place, small_files, sizeof(small_files) /
			    sizeof(*small_files), err) ||
	    read_optional(m, "config.json", &m->config, err) ||
	    read_optional(m, "quantize_config.json", &m->quantize, err) ||
	    (!m->quantize &&
	     read_optional(m, "quant_config.json", &m->quantize, err)) ||
	    read_optional(m, "generation_config.json", &p->generation, err))
		return -1;
	return read_trees(m, err);
}

/* ---- weight files ---- */

static int open_file(struct model *m, uint32_t i, const char *name,
		     unsigned flags, struct err *err)
{
	struct model_priv *p = m->priv;
	struct model_file *f = &m->file[i];

	f->name = mem_text(name, strlen(name), err);
	if (!f->name ||
	    tensor_file_open(f->src, flags & MODEL_LENIENT ? ST_LENIENT : 0,
			     &p->opened[i], err))
		return -1;
	f->bytes = io_size(f->src);
	f->tensors = p->opened[i].count;
	f->container = p->opened[i].container;
	f->odd = p->opened[i].odd;
	return 0;
}

static int open_files(struct model *m, const struct model_files *files,
		      unsigned flags, struct err *err)
{
	struct model_priv *p = m->priv;
	struct src **src = mem_alloc(files->count, sizeof(*src), err);
	int ret = -1;

	m->file = mem_alloc(files->count, sizeof(*m->file), err);
	p->opened = mem_alloc(files->count, sizeof(*p->opened), err);
	if (!src || !m->file || !p->opened ||
	    model_files_open(p->place, files, src, err))
		goto out;
	m->file_count = files->count;
	for (uint32_t i = 0; i < files->count; i++)
		m->file[i].src = src[i];
	for (uint32_t i = 0; i < files->count; i++)
		if (open_file(m, i, files->name[i], flags, err))
			goto out;
	ret = 0;
out:
	free(src);
	return ret;
}

/* The pairs of a GGUF file take the place of whatever lies beside it. */
static int adopt_gguf(struct model *m, struct err *err)
{
	struct model_priv *p = m->priv;
	struct gguf_file *f = m->file_count ? p->opened[0].gguf : NULL;

	if (!f)
		return 0;
	if (llama_gguf_split(f, m->file_count, err) ||
	    llama_gguf_fetch(f, m->file[0].src, err))
		return -1;
	json_free(m->config);
	json_free(m->quantize);
	json_free(p->generation);
	m->config = m->quantize = p->generation = NULL;
	m->odd = 0;
	if (llama_gguf_config(f, &m->config, err) || read_trees(m, err))
		return -1;
	for (uint32_t i = 0; i < m->file_count; i++)
		if (p->opened[i].gguf &&
		    llama_gguf_rename(p->opened[i].gguf, model_llama(m), err))
			return -1;
	return 0;
}

/* ---- the table of tensors and the modules in it ---- */

static void sort_tensors(struct model *m)
{
	if (m->tensor_count)
		qsort(m->tensor, m->tensor_count, sizeof(*m->tensor),
		      model_by_name);
}

static int gather(struct model *m, struct err *err)
{
	struct model_priv *p = m->priv;
	uint64_t total = 0, at = 0;

	for (uint32_t i = 0; i < m->file_count; i++)
		total += p->opened[i].count;
	if (total > UINT32_MAX / 2)
		return err_set(err, ERR_INPUT, "too many tensors");
	m->tensor = mem_alloc((size_t)total, sizeof(*m->tensor), err);
	if (!m->tensor)
		return -1;
	m->tensor_count = (uint32_t)total;
	for (uint32_t i = 0; i < m->file_count; i++)
		for (uint32_t k = 0; k < p->opened[i].count; k++) {
			m->tensor[at] = p->opened[i].tensor[k];
			m->tensor[at++].file = i;
		}
	sort_tensors(m);
	for (uint32_t i = 1; i < m->tensor_count; i++) {
		const struct tensor *a = &m->tensor[i - 1], *b = &m->tensor[i];

		if (!strcmp(a->name, b->name))
			return err_set(err, ERR_INPUT, "%.256s: both in %s and "
				       "in %s", a->name, model_file_of(m, a),
				       model_file_of(m, b));
	}
	return 0;
}

/* The end of the run of tensors that share tensor i's prefix. */
static uint32_t run_end(const struct model *m, uint32_t i)
{
	const char *name = m->tensor[i].name;
	size_t n = model_prefix(name);

	do
		i++;
	while (i < m->tensor_count &&
	       model_prefix(m->tensor[i].name) == n &&
	       !memcmp(m->tensor[i].name, name, n));
	return i;
}

/* One module per prefix; tensors without one belong to none. */
static int cut_modules(struct model *m, struct err *err)
{
	struct model_priv *p = m->priv;
	size_t text = 0, count = 0;
	char *at;

	for (uint32_t i = 0; i < m->tensor_count; i = run_end(m, i)) {
		text += model_prefix(m->tensor[i].name) + 1;
		count++;
	}
	m->module = mem_alloc(count, sizeof(*m->module), err);
	p->names = mem_alloc(text, 1, err);
	if (!m->module || !p->names)
		return -1;
	at = p->names;
	for (uint32_t i = 0; i < m->tensor_count;) {
		uint32_t end = run_end(m, i);
		size_t n = model_prefix(m->tensor[i].name);

		if (n) {
			struct qf_module *mod = &m->module[m->module_count++];

			memcpy(at, m->tensor[i].name, n);
			mod->name = at;
			mod->part = &m->tensor[i];
			mod->count = end - i;
			at += n + 1;
		}
		i = end;
	}
	return 0;
}

/* Every tensor of the index is where it says, and which are not in it. */
static int check_index(struct model *m, const struct model_files *files,
		       struct err *err)
{
	uint32_t listed = 0;

	if (!files->map)
		return 0;
	for (const struct cJSON *e = json_first(files->map); e;
	     e = json_next(e)) {
		const struct tensor *t = model_find(m, json_key(e));
		const char *where = json_text(e);

		if (!t)
			return err_set(err, ERR_INPUT, "%.128s: %.128s: "
				       "missing, but %s places it there",
				       where ? where : "", json_key(e),
				       files->index_name);
		if (!where || strcmp(where, model_file_of(m, t)))
			return err_set(err, ERR_INPUT, "%.128s: %.128s: "
				       "missing, it is in %s although %s "
				       "places it there", where ? where : "",
				       json_key(e), model_file_of(m, t),
				       files->index_name);
		listed++;
	}
	m->unlisted = m->tensor_count - listed;
	if (m->unlisted)
		m->odd |= MODEL_ODD_UNLISTED;
	return 0;
}

static int make_tidy(struct model *m, struct err *err)
{
	struct model_priv *p = m->priv;

	if (model_tidy_apply(m, &p->renamed, err))
		return -1;
	sort_tensors(m);
	if (model_fused_cut(m, &p->parts, err))
		return -1;
	sort_tensors(m);
	return 0;
}

static int load_tensors(struct model *m, unsigned flags, struct err *err)
{
	struct model_priv *p = m->priv;
	struct model_files files;
	int ret = -1;

	if (model_files_find(p->place, &m->quant, &files, err))
		return -1;
	m->odd |= files.odd;
	if (open_files(m, &files, flags, err))
		goto out;
	if (adopt_gguf(m, err) || gather(m, err) ||
	    check_index(m, &files, err) ||
	    (flags & MODEL_TIDY && make_tidy(m, err)) || cut_modules(m, err)) {
		err_ctx(err, "%s", m->path);
		goto out;
	}
	ret = 0;
out:
	model_files_release(&files);
	return ret;
}

/* ---- configs against tensors ---- */

/* In how many ways the tensors of the first few quantized modules contradict
 * what the config in force says. */
static uint32_t contradictions(const struct model *m)
{
	const uint32_t bad = QF_ODD_BITS | QF_ODD_GROUP | QF_ODD_ACT |
			     QF_ODD_SYM | QF_ODD_LABEL;
	uint32_t looked = 0, n = 0;

	for (uint32_t i = 0; i < m->module_count && looked < 8; i++) {
		struct qf_hint hint;
		struct qf_layer l = { .module = &m->module[i], .hint = &hint };
		const struct qfmt *f;
		struct ql_spec spec;
		struct err ignored;
		bool skip;

		if (model_hint(m, l.module->name, &hint, &skip, &ignored))
			continue;
		f = qf_recognise(l.module, &hint);
		if (!f)
			continue;
		looked++;
		n += f->spec(&l, &spec, &ignored) ? 1 : 0;
		for (uint32_t odd = l.odd & bad; odd; odd &= odd - 1)
			n++;
	}
	return n;
}

/* Two homes, two stories: the tensors decide between them. */
static int settle(struct model *m, struct err *err)
{
	struct config_quant first = m->quant, second;
	struct model_priv *p = m->priv;
	uint32_t n = contradictions(m);

	if (!n)
		return 0;
	if (config_quant_read(NULL, m->quantize, &second, err))
		return -1;
	if (!second.dynamic)
		second.dynamic = first.dynamic;
	second.disagree = true;
	second.differs = first.differs;
	m->quant = second;
	if (contradictions(m) >= n) {
		m->quant = first;
		return 0;
	}
	model_rules_free(p->rules);
	return model_rules_new(m->quant.dynamic, &p->rules, err);
}

static bool has_quantized(const struct model *m)
{
	const struct qf_hint none = { .desc_act = -1, .sym = -1 };

	for (uint32_t i = 0; i < m->module_count; i++)
		if (qf_recognise(&m->module[i], &none))
			return true;
	return false;
}

/* A bias that is padded as its layer is: the outputs that there are come first,
 * so that all who take it need no word about it. */
static int trim_biases(struct model *m, struct err *err)
{
	for (uint32_t i = 0; i < m->module_count; i++) {
		const struct tensor *scales = qf_part(&m->module[i], "scales");
		const struct tensor *bias = qf_part(&m->module[i], "bias");
		struct tensor *t;
		struct qf_hint hint;
		bool skip;

		if (!bias || bias->rank != 1 || !scales || scales->rank != 2 ||
		    scales->dim[1] != bias->dim[0] || !bias->dim[0])
			continue;
		if (model_hint(m, m->module[i].name, &hint, &skip, err))
			return -1;
		t = &m->tensor[bias - m->tensor];
		t->size /= t->dim[0];
		t->dim[0] = qf_outputs(t->dim[0], hint.out);
		t->size *= t->dim[0];
	}
	return 0;
}

static int apply_configs(struct model *m, struct err *err)
{
	struct model_priv *p = m->priv;

	if (json_count(m->quant.dynamic) ?
		    model_rules_new(m->quant.dynamic, &p->rules, err) :
		    model_rules_groups(m->quant.tree, &p->rules, err))
		return err_ctx(err, "%s", m->dir);
	if ((!m->quant.tree || !m->quant.bits || !m->quant.group_size) &&
	    has_quantized(m))
		model_second_fill(m, p->opened);
	if (m->quant.source == CONFIG_NONE && has_quantized(m))
		m->quant.source = CONFIG_INFERRED;
	if (m->quant.disagree && settle(m, err))
		return -1;
	return trim_biases(m, err);
}

/* ---- the model ---- */

int model_open(const char *path, unsigned flags, struct model **out,
	       struct err *err)
{
	struct io_place *place;

	*out = NULL;
	if (net_is_address(path))
		return err_set(err, ERR_UNSUP, "%s: only gptq-inspect and "
			       "gptq-quantize --plan look at an address; fetch "
			       "the folder first", path);
	if (io_place_open(path, NULL, &place, err))
		return -1;
	return model_open_place(place, flags, out, err);
}

int model_open_place(struct io_place *place, unsigned flags,
		     struct model **out, struct err *err)
{
	struct model *m;
	struct model_priv *p;
	int ret = -1;

	*out = NULL;
	m = mem_alloc(1, sizeof(*m), err);
	p = m ? mem_alloc(1, sizeof(*p), err) : NULL;
	if (!p) {
		io_place_close(place);
		goto out;
	}
	m->priv = p;
	p->place = place;
	if (set_paths(m, err) || read_configs(m, err))
		goto out;
	if (!(flags & MODEL_NO_WEIGHTS) && load_tensors(m, flags, err))
		goto out;
	if (apply_configs(m, err))
		goto out;
	*out = m;
	ret = 0;
out:
	if (ret)
		model_close(m);
	return ret;
}

/* Gives the place back, which the files are closed before. */
static struct io_place *release_priv(struct model *m)
{
	struct model_priv *p = m->priv;
	struct io_place *place = p ? p->place : NULL;

	if (!p)
		return NULL;
	for (uint32_t i = 0; p->opened && i < m->file_count; i++)
		tensor_file_close(&p->opened[i]);
	model_rules_free(p->rules);
	json_free(p->generation);
	free(p->opened);
	free(p->names);
	free(p->renamed);
	free(p->parts);
	free(p);
	return place;
}

void model_close(struct model *m)
{
	struct io_place *place;

	if (!m)
		return;
	place = release_priv(m);
	for (uint32_t i = 0; i < m->file_count; i++) {
		io_close(m->file[i].src);
		free(m->file[i].name);
	}
	io_place_close(place);
	free(m->file);
	free(m->tensor);
	free(m->module);
	json_free(m->config);
	json_free(m->quantize);
	free(m->path);
	free(m->dir);
	free(m);
}
