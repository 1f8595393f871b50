"""What the pages derive from a resource's schema and table."""

from __future__ import annotations

import pytest

from blueprints.alerts.service import alerts
from blueprints.crew.service import crew
from blueprints.equipment.service import equipment
from blueprints.maintenance.service import maintenance_schedules
from blueprints.ui.choices import UNFINISHED, crew_offered, equipment_offered
from blueprints.ui.derived import TYPES, columns_of, filter_of, inputs_of
from blueprints.ui.kinds import KINDS
from blueprints.work_orders.service import work_orders


def test_an_input_is_what_its_field_and_its_column_say() -> None:
    lines = ("equipment_id", "priority status maintenance_type", "estimated_hours description")
    found = {each.name: each for each in inputs_of(work_orders, *lines)}
    assert [each.key for each in found.values()][:2] == ["equipmentId", "priority"]
    assert {name: each.control for name, each in found.items()} == {
        "equipment_id": "reference",
        "priority": "choice",
        "status": "choice",
        "maintenance_type": "text",
        "estimated_hours": "number",
        "description": "area",
    }
    assert {name: each.width for name, each in found.items()} == {
        "equipment_id": "",
        **dict.fromkeys(("priority", "status", "maintenance_type"), "third"),
        **dict.fromkeys(("estimated_hours", "description"), "half"),
    }
    assert [name for name, each in found.items() if each.required] == ["equipment_id"]
    assert found["equipment_id"].offered is equipment_offered
    assert (found["priority"].values, found["priority"].default) == ((1, 2, 3, 4, 5), "3")
    assert found["status"].values == ("open", "in_progress", "completed", "cancelled")
    assert (found["status"].default, found["maintenance_type"].default) == ("open", "")
    assert str(found["maintenance_type"].hint) == "corrective"


def test_a_flag_and_a_choice_start_as_the_table_or_the_schema_says() -> None:
    active, on_duty = inputs_of(crew, "active on_duty")
    assert (active.control, active.default, on_duty.default) == ("flag", "true", "")
    (severity,) = inputs_of(alerts, "alert_type")
    assert (severity.values, severity.default) == (("warning", "critical"), "warning")


def test_a_person_is_chosen_from_the_crew() -> None:
    for resource in (maintenance_schedules, work_orders):
        (person,) = inputs_of(resource, "assigned_crew_id")
        assert (person.control, person.offered) == ("reference", crew_offered)


@pytest.mark.parametrize(
    ("resource", "name", "shape"),
    [
        (work_orders, "wo_number", "code"),
        (work_orders, "description", "long"),
        (work_orders, "priority", "priority"),
        (work_orders, "planned_start_date", "time"),
        (work_orders, "schedule_id", "schedules"),
        (work_orders, "assigned_crew_id", "crew"),
        (maintenance_schedules, "work_order_id", "work-orders"),
        (maintenance_schedules, "scheduled_date", "due"),
        (maintenance_schedules, "estimated_duration", "number"),
        (equipment, "specifications", "pairs"),
        (equipment, "criticality_level", "word"),
        (crew, "on_duty", "flag"),
        (crew, "phone", "text"),
    ],
)
def test_a_column_has_the_shape_of_its_field(resource: object, name: str, shape: str) -> None:
    (column,) = columns_of(resource, name)  # type: ignore[arg-type]
    assert column.shape == shape


def test_a_columns_label_is_the_fields_unless_the_list_calls_it_otherwise() -> None:
    own, other = columns_of(
        alerts, "message sensor_type", sort="message", labels={"sensor_type": "Reading"}
    )
    assert (str(own.label), own.sort) == ("Message", True)
    assert (str(other.label), other.sort) == ("Reading", False)


def test_a_filter_takes_the_values_of_its_field_and_no_others() -> None:
    status = filter_of(work_orders, "status", unfinished=("open",))
    assert [value for value, _text in status.offered().options][:2] == [UNFINISHED, "open"]
    assert "IN" in str(status.where(UNFINISHED))
    on_duty = filter_of(crew, "on_duty", name="duty")
    assert (on_duty.name, str(on_duty.label)) == ("duty", "On duty")
    assigned = filter_of(work_orders, "assigned_crew_id", name="crew")
    for each, text in ((status, "unheard-of"), (on_duty, "maybe"), (assigned, "Ada")):
        with pytest.raises(ValueError, match=text):
            each.where(text)


@pytest.mark.parametrize("slug", KINDS)
def test_each_field_that_a_page_may_show_says_what_it_is_called(slug: str) -> None:
    schema = KINDS[slug].resource.schema()
    shown = {name: field for name, field in schema.fields.items() if "label" in field.metadata}
    hidden = {"id", "version", "updated_at", "previous_schedule_id"} & set(schema.fields)
    assert hidden == set(schema.fields) - set(shown)
    for field in shown.values():
        assert isinstance(field, tuple(kind for kind, _control, _shape in TYPES))
