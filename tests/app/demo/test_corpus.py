"""The demo's documents are what the running environment carries."""

from howdah.app.demo.corpus import MIN_BYTES, installed_documents
from howdah.jobs.documents.classify import classify
from howdah.jobs.documents.extract import extract
from howdah.jobs.documents.licences import agrees


def test_the_environment_yields_distinct_texts_of_two_kinds_in_a_fixed_order() -> None:
    documents = installed_documents()
    assert documents == installed_documents()
    assert len({d.data for d in documents}) == len(documents)
    assert min(len(d.data) for d in documents) > MIN_BYTES
    assert sum(d.kind_hint == "licence" for d in documents) > 40
    assert sum(d.kind_hint == "readme" for d in documents) > 40
    assert "howdah" not in {d.distribution for d in documents}


def test_nearly_all_are_read_and_classified_as_their_distributions_declare() -> None:
    verdicts = []
    for document in installed_documents():
        found = classify(extract(document.data, document.name).text, document.name)
        assert found.kind == document.kind_hint, (document.distribution, document.name, found.why)
        if found.kind == "licence":
            verdicts.append(agrees(found.families, document.declared_licence).verdict)
    assert verdicts.count("agree") / len(verdicts) > 0.8
