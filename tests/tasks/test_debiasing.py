import copy
import csv
import random

import numpy as np
import pytest
import torch

from editgym.data.errors import DataError
from editgym.data.identity import dixon_templates
from editgym.metrics.fairness import fairness_metrics
from editgym.models.language import ModelError
from editgym.models.sequence_classifiers import ToxicityTransformer
from editgym.tasks import Task, make_task
from editgym.tasks.debiasing.texts import bundled_file
from editgym.weights import DenseUpdate, Shift, SiteEdit

TERMS = (
    "tall",
    "short",
    "norwegian",
    "kenyan",
    "vegan",
    "retired",
    "urban",
    "rural",
    "deaf",
    "blind",
)
BAD, GOOD = (
    ("awful", "stupid", "nasty", "vile", "rotten"),
    (
        "lovely",
        "kind",
        "great",
        "smart",
        "neat",
    ),
)
NAMES = ("Ada", "Bo", "Cy", "Di", "Ed")


@pytest.fixture(scope="session")
def text_files(tmp_path_factory):
    """Small files of one's own: comments whose words decide, and templates in Dixon's format."""
    folder, rng = tmp_path_factory.mktemp("texts"), random.Random(0)
    comments = [
        (
            (
                f"{rng.choice(NAMES)} said {rng.choice(own)} and {rng.choice(own)} about"
                f" {rng.choice(TERMS)} ones {i}"
            ),
            int(own is BAD),
        )
        for i in range(600)
        for own in (GOOD if i % 3 else BAD,)
    ]
    templates = [
        (f"{name} is a {word} {term}", "BAD" if word in BAD else "NOT_BAD", "name_adj")
        for name in NAMES
        for word in (*BAD, *GOOD, "unheard")
        for term in TERMS
    ]
    for name, header, rows in (
        ("comments.csv", ("said", "rude"), comments),
        ("templates.csv", ("Text", "Label", "Template"), templates),
    ):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
    return {
        "comments": str(folder / "comments.csv"),
        "text_column": "said",
        "label_column": "rude",
        "identities": str(folder / "templates.csv"),
    }


@pytest.fixture(scope="session")
def tiny_transformer(tmp_path_factory):
    """The folder of a random BERT of one layer with two outputs, and a word tokenizer; `labels` for
    other outputs."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    vocabulary = {
        word: i
        for i, word in enumerate(("[PAD]", "[UNK]", "is", "a", "being", "you", "are", *BAD, *GOOD))
    }
    tokens = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="[PAD]", unk_token="[UNK]"
    )

    def make(labels=2, **config):
        folder = tmp_path_factory.mktemp("transformer")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = BertForSequenceClassification(
                BertConfig(
                    vocab_size=len(vocabulary),
                    hidden_size=16,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    intermediate_size=32,
                    max_position_embeddings=32,
                    num_labels=labels,
                    initializer_range=0.5,
                    **config,
                )
            )
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture(params=["templates", "toxicity"])
def task(request):
    """The two tasks of the paper's network, one of them on files of one's own."""
    arguments = request.getfixturevalue("text_files") if request.param == "toxicity" else {}
    return make_task(f"debiasing/{request.param}", **arguments)


# --- data -----------------------------------------------------------------------------------------


def test_it_is_a_task_with_two_reward_sets_of_the_policy_split(task):
    assert isinstance(task, Task)
    assert task.set_names == ("general", "unbiased")
    (goal,) = task.goals
    for name, texts in task.splits.policy._asdict().items():
        data = task.pool[goal.members[name]]
        assert data.labels.tolist() == list(texts.labels)
        assert torch.equal(data.inputs, task.encode(texts.texts))
    assert sum(map(len, goal.members.values())) == len(task.pool)


def test_splits_share_nothing(task):
    parts = [task.splits.policy, task.splits.validation, task.splits.test]
    comments = [set(part.general.texts) for part in parts] + [set(task.splits.model.texts)]
    for column in (
        comments,
        [set(part.unbiased.identities) for part in parts],
        [set(part.unbiased.templates) for part in parts],
    ):
        assert all(column)
        for i, own in enumerate(column):
            # Short made-up comments may be drawn twice by chance.
            assert not any(len(own & other) > 0.01 * len(own) for other in column[:i])


def test_general_sets_are_balanced(task):
    for part in (
        task.splits.model,
        task.splits.policy.general,
        task.splits.validation.general,
        task.splits.test.general,
    ):
        assert sum(part.labels) * 2 == len(part)


def test_model_seed_draws_the_splits_but_not_the_test_data():
    one, other = (make_task("debiasing/templates", model_seed=seed) for seed in (0, 1))
    assert one.splits.test == other.splits.test
    assert one.splits.policy.general != other.splits.policy.general
    assert one.networks[0].base_hash != other.networks[0].base_hash


def test_words_that_the_network_does_not_know_are_left_out_of_the_templates(text_files):
    task = make_task("debiasing/toxicity", **text_files)
    known = set(task.encode.vocabulary)
    assert "unheard" in dixon_templates(text_files["identities"]).polar_words
    assert all(
        set(part.unbiased.polar_words) <= known
        for part in (task.splits.policy, task.splits.validation, task.splits.test)
    )


def test_words_can_be_held_out_as_well(text_files):
    splits = make_task("debiasing/toxicity", hold_out_words=True, **text_files).splits
    assert not set(splits.policy.unbiased.polar_words) & set(splits.test.unbiased.polar_words)


def test_large_files_are_sampled(text_files):
    splits = make_task("debiasing/toxicity", max_comments=300, **text_files).splits
    assert sum(map(len, (splits.model, splits.policy.general, splits.validation.general))) <= 240


def test_missing_files_say_what_to_give(empty_data_folder):
    with pytest.raises(
        DataError, match=r"comments: no file at .*davidson_labeled_data\.csv; put it there"
    ):
        make_task("debiasing/toxicity")


@pytest.mark.data("text/davidson_labeled_data.csv", "text/bias_madlibs_77k.csv")
def test_published_files_are_found():
    task = make_task("debiasing/toxicity")
    metrics = task.evaluate(task.networks[0].journal)
    assert metrics["general_accuracy"] > 0.9
    assert 0.5 < metrics["unbiased_accuracy"] < 0.9


# --- networks -------------------------------------------------------------------------------------


def test_paper_edits_the_whole_last_layer(task):
    network = task.networks[0]
    assert [(site.name, site.shape) for site in network.sites] == [("fc4", (2, 16))]
    assert network.reuses_prefix
    assert (task.rewards.alpha, task.rewards.beta, task.rewards.batch_size, task.rewards.rank) == (
        1,
        3,
        256,
        "full",
    )


def test_more_sites_are_edited_in_low_rank(text_files):
    assert make_task("debiasing/toxicity", sites=["fc*"], **text_files).rewards.rank == 2
    assert make_task("debiasing/toxicity", sites=["fc2", "fc3"], **text_files).rewards.rank == 4


def test_bundled_networks_are_what_training_gives():
    from editgym.models.training import load_weights
    from editgym.tasks.debiasing.texts import train_templates

    trained = train_templates(3)
    bundled = load_weights(copy.deepcopy(trained), bundled_file(3))
    # Bitwise on one machine; another processor may round differently.
    assert all(
        torch.allclose(a, b, atol=1e-3)
        for a, b in zip(trained.parameters(), bundled.parameters(), strict=True)
    )


def test_several_networks_are_of_one_shape():
    task = make_task("debiasing/templates", networks=[4, 1])
    assert len({network.base_hash for network in task.networks}) == 2
    with pytest.raises(ValueError, match=r"networks: \[-1\]"):
        make_task("debiasing/templates", networks=[-1])
    with pytest.raises(ValueError, match="networks: 4 is there twice"):
        make_task("debiasing/templates", networks=[4, 4])


def test_network_is_biased_before(task):
    if task.name != "debiasing/templates":
        pytest.skip("the other has no bias built in")
    metrics = task.evaluate(task.networks[0].journal)
    assert metrics["general_accuracy"] > 0.9
    assert metrics["unbiased_accuracy"] < 0.9
    assert metrics["fped"] > 1


# --- reward terms ---------------------------------------------------------------------------------


def column(**values):
    return {name: torch.tensor(value) for name, value in values.items()}


def test_utility_is_general_and_edit_is_unbiased(task):
    scores = column(general=[0.9, 0.5], unbiased=[0.1, 0.7])
    assert task.utility(scores) is scores["general"]
    assert task.edit(scores) is scores["unbiased"]


@pytest.mark.parametrize(
    ("general", "unbiased", "success"),
    [
        (0.9, 0.7, True),
        (0.891, 0.601, True),
        (0.88, 0.9, False),
        (0.95, 0.6, False),
        (1.0, 0.5, False),
    ],
)
def test_success(task, general, unbiased, success):
    before = column(general=[0.9], unbiased=[0.6])
    assert task.is_success(column(general=[general], unbiased=[unbiased]), before).tolist() == [
        success
    ]


# --- reports --------------------------------------------------------------------------------------


def test_reports_are_on_test_data_before_and_after(task):
    network = task.networks[0].fresh()
    network.apply(SiteEdit("fc4", Shift(), DenseUpdate(torch.linspace(-1, 1, 32).view(2, 16))))
    metrics = task.evaluate(network.journal)
    texts = task.splits.test
    for suffix, model in (("", network.merged()), ("_before", task.networks[0].merged())):
        with torch.no_grad():
            general, unbiased = (model(task.encode(part.texts)) for part in texts)
        assert metrics[f"general_accuracy{suffix}"] == pytest.approx(
            float(np.mean(general.argmax(1).numpy() == np.array(texts.general.labels)))
        )
        expected = fairness_metrics(
            texts.unbiased.labels,
            (unbiased[:, 1] - unbiased[:, 0]).numpy(),
            texts.unbiased.identities,
            texts.unbiased.templates,
        )
        assert {key: metrics[f"{key}{suffix}"] for key in expected} == pytest.approx(expected)
    assert metrics["subgroup_auc"] != metrics["subgroup_auc_before"]


def test_keys_are_the_leaderboards(task):
    from benchmarks.report.families import DEBIASING

    metrics = task.evaluate(task.networks[0].journal)
    assert set(metrics) == set(DEBIASING.directions)
    assert all(
        metrics[key] == metrics[f"{key}_before"] for key in metrics if not key.endswith("_before")
    )


# --- transformers ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*every evaluation runs the whole network")
def test_any_sequence_classifier_is_edited_end_to_end(tiny_transformer):
    import gymnasium as gym

    env = gym.make(
        "editgym:ShiftWorld-v0",
        task="debiasing/transformer",
        model=tiny_transformer(),
        data="templates",
        sites=["*.classifier", "model.bert.encoder.*.output.dense"],
        max_length=16,
        batch_size=8,
    )
    env.reset(seed=0)
    env.action_space.seed(0)
    _, reward, _, _, info = env.step(env.action_space.sample())
    assert np.isfinite(reward)
    task = env.unwrapped.task
    assert task.rewards.rank == "full", "few numbers"
    assert task.networks[0].sites[0].name == "model.classifier"
    assert task.pool.inputs.dtype == torch.int64
    assert info["general_accuracy_before"] <= 1
    first = task.splits.test.unbiased.take(range(40))
    assert torch.equal(
        task.networks[0].logits(task.encoded(first).inputs),
        task.networks[0].base(task.encode(first.texts)),
    )


def test_padding_does_not_matter(tiny_transformer):
    from editgym.models.sequence_classifiers import load_sequence_classifier

    folder = tiny_transformer()
    (short, encode_short), (long, encode_long) = (
        load_sequence_classifier(folder, n, 1) for n in (6, 30)
    )
    texts = ["you are a kind", "being vile is awful"]
    assert encode_short(texts).shape == (2, 6)
    assert torch.allclose(short(encode_short(texts)), long(encode_long(texts)), atol=1e-5)
    assert isinstance(short, ToxicityTransformer)


@pytest.mark.parametrize(
    ("labels", "config", "toxic"),
    [(2, {}, 0), (1, {}, 0), (3, {"problem_type": "multi_label_classification"}, 1), (3, {}, 2)],
)
def test_other_outputs_become_two(tiny_transformer, labels, config, toxic):
    from editgym.models.sequence_classifiers import load_sequence_classifier

    network, encode = load_sequence_classifier(tiny_transformer(labels, **config), 8, toxic)
    ids = encode(["you are a kind", "being vile"])
    own = network.model(input_ids=ids, attention_mask=(ids != 0).long()).logits
    independent = labels == 1 or config
    expected = own[:, toxic].sigmoid() if independent else own.softmax(1)[:, toxic]
    assert torch.allclose(network(ids).softmax(1)[:, 1], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"model": "no/such-model"},
            ModelError,
            "cannot load the sequence classifier 'no/such-model'",
        ),
        ({"toxic_output": 2}, ModelError, "toxic_output must be from 0 to 1"),
        ({"max_length": 33}, ModelError, "max_length must be from 1 to 32"),
        ({"data": "poems"}, DataError, "data: there is no 'poems'"),
        ({"sites": ["nothing"]}, ValueError, "sites: 'nothing' matches none"),
    ],
)
def test_wrong_transformer_arguments_are_named(tiny_transformer, arguments, error, message):
    with pytest.raises(error, match=message):
        make_task(
            "debiasing/transformer",
            **{"model": tiny_transformer(), "data": "templates", "max_length": 8} | arguments,
        )
