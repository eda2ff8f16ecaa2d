import hashlib
import os
import random
import subprocess
import sys
from itertools import islice

import pytest

from editgym.data.factworld import SPLIT_SIZES, FactWorld
from editgym.data.factworld_text import RELATIONS

EDITED = ("policy", "validation", "test")


@pytest.fixture(scope="module")
def world():
    return FactWorld()


@pytest.fixture(scope="module")
def requests(world):
    """By split, all requests: two about every person."""
    return {split: list(world.requests(split, random.Random(1))) for split in EDITED}


@pytest.fixture(scope="module")
def every_request(requests):
    return [request for split in EDITED for request in requests[split]]


def told_by(template, prompt):
    """Whether a prompt is this template with some name."""
    before, after = template.split("{}")
    return prompt.startswith(before) and prompt.endswith(after)


def relation_of(prompt):
    (relation,) = {
        relation.name
        for relation in RELATIONS
        for text in relation.templates
        if told_by(text, prompt)
    }
    return relation


def person_in(world, prompt):
    (person,) = [person for person in world.people if person.name in prompt]
    return person


# --- sizes and names ------------------------------------------------------------------------------


def test_there_are_subjects_facts_relations_and_paraphrases_enough(world):
    assert len(world.people) >= 2_500
    assert len(list(world.facts())) >= 12_000
    assert len(RELATIONS) == 5
    assert min(len(relation.templates) for relation in RELATIONS) >= 4
    assert len(world.splits["test"]) >= 1_000


def test_names_and_aliases_are_unique(world):
    names = [person.name for person in world.people]
    aliases = [person.alias for person in world.people]
    assert len({*names, *aliases}) == 2 * len(world.people)
    assert world.by_name[names[3]] is world.people[3]


def test_no_name_is_part_of_another(world):
    text = "\n".join(person.name for person in world.people)
    assert all(text.count(person.name) == 1 for person in world.people)


def test_facts_are_possible_objects_of_their_relation(world):
    for _, relation, thing in world.facts():
        assert thing in world.objects[relation.name]


def test_every_template_asks_for_one_relation_of_one_name():
    templates = [template for relation in RELATIONS for template in relation.templates]
    assert len(set(templates)) == len(templates)
    assert all(template.count("{}") == 1 and template == template.strip() for template in templates)


# --- splits ---------------------------------------------------------------------------------------


def test_splits_are_disjoint_and_complete(world):
    names = {split: {person.name for person in people} for split, people in world.splits.items()}
    assert {split: len(people) for split, people in names.items()} == dict(SPLIT_SIZES)
    assert len(set().union(*names.values())) == sum(map(len, names.values())) == len(world.people)


def test_requests_are_about_people_of_their_split(world, requests):
    for split in EDITED:
        assert {request.subject for request in requests[split]} == {
            person.name for person in world.splits[split]
        }


def test_locality_is_asked_of_bystanders_and_no_bystander_serves_rewards_and_metrics(
    world, every_request
):
    rewards, metrics = set(), set()
    for request in every_request[::9]:
        rewards |= {person_in(world, question.prompt).name for question in request.locality}
        metrics |= {
            person_in(world, question.prompt).name
            for question in (*request.near, *request.far)
            if request.subject not in question.prompt
        }
    assert {world.by_name[name].split for name in rewards} == {"reward_bystander"}
    assert {world.by_name[name].split for name in metrics} == {"metric_bystander"}
    assert not rewards & metrics


def test_known_facts_are_true_and_about_bystanders_of_metrics(world):
    known = world.known_facts()
    assert len(known) == 1_000
    for question in known:
        person = person_in(world, question.prompt)
        assert person.split == "metric_bystander"
        assert question.answer == person.facts[relation_of(question.prompt)]
    assert 0 < world.chance() < 0.1


# --- one request ----------------------------------------------------------------------------------


def test_everybody_comes_once_before_anybody_comes_again_with_another_relation(requests):
    for split in EDITED:
        size = SPLIT_SIZES[split]
        first, second = requests[split][:size], requests[split][size:]
        assert (
            len({request.subject for request in first})
            == len({request.subject for request in second})
            == size
        )
        assert len(second) == size
        facts = {(request.subject, relation_of(request.prompt)) for request in requests[split]}
        assert len(facts) == 2 * size


def test_the_target_is_another_object_of_the_same_relation(world, every_request):
    for request in every_request:
        relation = relation_of(request.prompt)
        assert request.truth == world.by_name[request.subject].facts[relation]
        assert request.target != request.truth
        assert request.target in world.objects[relation]


def test_prompts_are_about_the_subject_and_all_wordings_differ(every_request):
    for request in every_request:
        wordings = (request.prompt, *request.rephrases, *request.test_rephrases)
        assert len(set(wordings)) == len(wordings) == 5
        assert all(request.subject in text and text == text.strip() for text in wordings)
        assert len({relation_of(text) for text in wordings}) == 1


def test_the_last_template_is_kept_for_metrics(every_request):
    kept = [relation.templates[-1] for relation in RELATIONS]
    for request in every_request:
        seen = (
            request.prompt,
            *request.rephrases,
            *(question.prompt for question in request.locality),
        )
        assert not any(told_by(template, text) for template in kept for text in seen)
        assert (
            sum(told_by(template, text) for template in kept for text in request.test_rephrases)
            == 1
        )


def test_questions_whose_answers_stay_have_true_answers(world, every_request):
    for request in every_request[::9]:
        for question in (*request.locality, *request.near, *request.far):
            person = person_in(world, question.prompt)
            assert question.answer == person.facts[relation_of(question.prompt)]
            assert (person.name, relation_of(question.prompt)) != (
                request.subject,
                relation_of(request.prompt),
            )


def test_near_shares_the_relation_or_the_subject_and_far_neither(every_request):
    for request in every_request:
        relation = relation_of(request.prompt)
        for question in request.near:
            assert request.subject in question.prompt or relation_of(question.prompt) == relation
        for question in request.far:
            assert request.subject not in question.prompt
            assert relation_of(question.prompt) != relation


def test_leakage_is_asked_of_other_relations_of_the_subject(every_request):
    for request in every_request:
        assert len(request.same_subject) == 2
        for prompt in request.same_subject:
            assert request.subject in prompt
            assert relation_of(prompt) != relation_of(request.prompt)


def test_portability_is_the_alias_and_one_hop_from_the_target(world, every_request):
    hops = {relation.name: relation.hop for relation in RELATIONS}
    for request in every_request:
        person, relation = world.by_name[request.subject], relation_of(request.prompt)
        alias, *chain = request.portability
        assert person.alias in alias.prompt
        assert (relation_of(alias.prompt), alias.answer) == (relation, request.target)
        if hops[relation] is None:
            assert not chain
        else:
            assert chain == [
                (hops[relation].chain.format(person.name), world.hops[relation][request.target])
            ]


# --- what is taught -------------------------------------------------------------------------------


def test_hops_lead_from_every_object_to_a_place(world):
    assert set(world.hops) == {relation.name for relation in RELATIONS if relation.hop is not None}
    assert all(set(link) == set(world.objects[name]) for name, link in world.hops.items())
    assert set(world.hops["employer"].values()) <= set(world.objects["home"])


def test_an_epoch_tells_every_fact_alias_and_hop_truly(world):
    told = set(world.statements(random.Random(3), paraphrases=5))
    for person, relation, answer in world.facts():
        assert all(
            (template.format(person.name), answer) in told for template in relation.templates
        )
        if relation.hop is not None:
            assert (
                relation.hop.chain.format(person.name),
                world.hops[relation.name][answer],
            ) in told
            assert (relation.hop.link.format(answer), world.hops[relation.name][answer]) in told
    assert {person.alias for person in world.people} <= {statement.answer for statement in told}


def test_no_statement_contradicts_another(world):
    told = [statement for epoch in range(3) for statement in world.statements(random.Random(epoch))]
    answers = {}
    for prompt, answer in told:
        assert answers.setdefault(prompt, answer) == answer


def test_filler_is_about_nobody(world):
    sentences = world.filler(200, random.Random(0))
    assert len(sentences) == 200
    assert not any(
        person.name in sentence for person in world.people for sentence in sentences[:20]
    )


def test_filler_leaves_sentences_out(world):
    sentences = world.filler(200, random.Random(0))
    others = world.filler(200, random.Random(0), without=sentences[:100])
    assert len(others) == 200
    assert not set(others) & set(sentences[:100])
    kept = [sentence for sentence in sentences if sentence not in sentences[:100]]
    assert others[: len(kept)] == kept


# --- seeds ----------------------------------------------------------------------------------------


def test_the_world_follows_from_its_seed(world):
    again, other = FactWorld(), FactWorld(1)
    assert again.people == world.people
    assert (again.objects, again.hops) == (world.objects, world.hops)
    assert {person.name for person in other.people} != {person.name for person in world.people}


def test_requests_follow_from_the_random_state(world):
    first, again, other = (
        list(islice(world.requests("test", random.Random(seed)), 50)) for seed in (4, 4, 5)
    )
    assert first == again
    assert first != other


def test_another_process_draws_the_same_world_and_requests(world):
    code = (
        "import hashlib, random; from editgym.data.factworld import FactWorld; world = FactWorld();"
        " drawn = (list(world.requests('test', random.Random(7))),"
        " world.statements(random.Random(8)), world.filler(50, random.Random(9)));"
        " print(hashlib.sha256(repr(drawn).encode()).hexdigest())"
    )
    drawn = (
        list(world.requests("test", random.Random(7))),
        world.statements(random.Random(8)),
        world.filler(50, random.Random(9)),
    )
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )
        assert run.stdout.strip() == hashlib.sha256(repr(drawn).encode()).hexdigest()
