"""The data of the demo ship: a handy-size bulk carrier, the same at each start.

The codes follow the SFI group system, which ship owners use: 6xx machinery main components, 7xx systems for
machinery main components, 4xx ship equipment, 3xx cargo, 5xx crew and passengers, 8xx common systems.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random
from typing import Any

from msgspec import Struct


class Machine(Struct, frozen=True):
    """One line of the equipment list."""

    sfi: str
    name: str
    type: str
    maker: str
    model: str
    location: str
    criticality: str
    specifications: dict[str, Any]
    #: Sensor, unit and threshold of its alerts.
    sensor: tuple[str, str, float] | None = None


ER, STEERING, BRIDGE, DECK, GALLEY = (
    "Engine room",
    "Steering gear room",
    "Bridge",
    "Main deck",
    "Galley",
)
CONTROL, CARGO, BOW = "Engine control room", "Cargo hold area", "Forecastle"
EXHAUST = ("exhaust_gas_temperature", "°C", 420.0)
BEARING = ("bearing_temperature", "°C", 85.0)
VIBRATION = ("vibration", "mm/s", 7.1)
PRESSURE = ("discharge_pressure", "bar", 4.5)
LEVEL = ("level", "%", 85.0)

MACHINES = (
    Machine("601.001", "Main engine", "diesel_engine", "MAN Energy Solutions", "6G50ME-C9.6", ER, "critical",
            {"powerKw": 7180, "cylinders": 6, "ratedRpm": 100}, EXHAUST),
    Machine("601.011", "Main engine turbocharger", "turbocharger", "ABB Turbo Systems", "A165-L", ER, "critical",
            {"maxRpm": 19800}, ("rotor_speed", "rpm", 19500.0)),
    Machine("602.001", "Main engine governor", "governor", "Kongsberg Maritime", "AutoChief 600", CONTROL, "critical", {}),
    Machine("631.001", "Propeller, fixed pitch", "propeller", "Wärtsilä", "5-blade FPP 6.1 m", ER, "critical", {"diameterM": 6.1}),
    Machine("633.001", "Stern tube seal, aft", "shaft_seal", "SKF Marine", "Simplex Compact SC2", ER, "critical", {}, BEARING),
    Machine("634.001", "Intermediate shaft bearing", "bearing", "Kongsberg Maritime", "KAMEWA JB-450", ER, "high", {}, BEARING),
    Machine("651.001", "Auxiliary engine No.1", "diesel_generator", "Yanmar", "6EY18ALW", ER, "critical", {"powerKw": 660, "ratedRpm": 900}, EXHAUST),
    Machine("651.002", "Auxiliary engine No.2", "diesel_generator", "Yanmar", "6EY18ALW", ER, "critical", {"powerKw": 660, "ratedRpm": 900}, EXHAUST),
    Machine("651.003", "Auxiliary engine No.3", "diesel_generator", "Yanmar", "6EY18ALW", ER, "critical", {"powerKw": 660, "ratedRpm": 900}, EXHAUST),
    Machine("652.001", "Emergency generator", "diesel_generator", "Cummins", "6CTA8.3-D(M)", "Emergency generator room", "critical", {"powerKw": 150}),
    Machine("665.001", "Generator No.1, alternator", "alternator", "Hyundai Electric", "HFC7 506-84K", ER, "high", {"kva": 775, "volt": 450}, BEARING),
    Machine("671.001", "Auxiliary boiler, composite", "boiler", "Alfa Laval", "Aalborg OC", ER, "high", {"steamKgH": 1200, "bar": 7}, ("steam_pressure", "bar", 7.5)),
    Machine("672.001", "Boiler feed water pump No.1", "pump", "Shinko Industries", "SVQ50", ER, "medium", {}, VIBRATION),
    Machine("701.001", "Fuel oil transfer pump", "pump", "IMO AB", "ACG 070K7", ER, "medium", {"m3h": 30}, PRESSURE),
    Machine("702.001", "Fuel oil purifier No.1", "separator", "Alfa Laval", "S 926", ER, "high", {"lph": 3500}, VIBRATION),
    Machine("702.002", "Fuel oil purifier No.2", "separator", "Alfa Laval", "S 926", ER, "high", {"lph": 3500}, VIBRATION),
    Machine("703.001", "Fuel oil supply unit", "booster_module", "Auramarine", "AMB-M 1.8", ER, "critical", {}, PRESSURE),
    Machine("703.011", "Fuel oil auto filter", "filter", "Boll & Kirch", "6.64 DN65", ER, "high", {"mesh": "10 µm"}, ("differential_pressure", "bar", 0.8)),
    Machine("711.001", "Lubricating oil pump No.1", "pump", "Taiko Kikai", "LHN-175MA", ER, "critical", {"m3h": 175}, PRESSURE),
    Machine("711.002", "Lubricating oil pump No.2", "pump", "Taiko Kikai", "LHN-175MA", ER, "critical", {"m3h": 175}, PRESSURE),
    Machine("712.001", "Lubricating oil purifier", "separator", "GEA Westfalia", "OSE 20", ER, "high", {}, VIBRATION),
    Machine("713.001", "Cylinder oil lubricator", "lubricator", "Hans Jensen", "HJ Smartlube 4.0", ER, "high", {}),
    Machine("721.001", "Main sea water pump No.1", "pump", "Naniwa Pump", "FEV-350D", ER, "high", {"m3h": 420}, VIBRATION),
    Machine("721.002", "Main sea water pump No.2", "pump", "Naniwa Pump", "FEV-350D", ER, "high", {"m3h": 420}, VIBRATION),
    Machine("722.001", "Low temperature fresh water pump No.1", "pump", "Naniwa Pump", "FEV-300E", ER, "high", {}, VIBRATION),
    Machine("722.011", "Jacket water cooler", "heat_exchanger", "Alfa Laval", "M15-BFM", ER, "high", {}, ("outlet_temperature", "°C", 88.0)),
    Machine("722.012", "Central cooler No.1", "heat_exchanger", "Sondex", "S81-IG10", ER, "high", {}, ("outlet_temperature", "°C", 38.0)),
    Machine("731.001", "Main air compressor No.1", "air_compressor", "Sperre", "HV2/240A", ER, "high", {"bar": 30}, ("discharge_temperature", "°C", 180.0)),
    Machine("731.002", "Main air compressor No.2", "air_compressor", "Sperre", "HV2/240A", ER, "high", {"bar": 30}, ("discharge_temperature", "°C", 180.0)),
    Machine("731.011", "Main air receiver No.1", "pressure_vessel", "Kangrim Heavy Industries", "AR-4.0", ER, "critical", {"m3": 4.0}, ("air_pressure", "bar", 30.0)),
    Machine("732.001", "Working air compressor", "air_compressor", "Atlas Copco", "GA 37 MED", ER, "medium", {}),
    Machine("736.001", "Inert gas blower", "blower", "Alfa Laval", "Smit Combustion BL-2", ER, "medium", {}),
    Machine("741.001", "Exhaust gas economiser", "economiser", "Alfa Laval", "Aalborg XS-TC7A", "Funnel casing", "medium", {}, ("differential_pressure", "mbar", 25.0)),
    Machine("751.001", "Fresh water generator", "evaporator", "Alfa Laval", "AQUA Blue C65", ER, "medium", {"m3day": 20}, ("salinity", "ppm", 10.0)),
    Machine("797.001", "Alarm and monitoring system", "automation", "Kongsberg Maritime", "K-Chief 600", CONTROL, "critical", {}),
    Machine("803.001", "Bilge pump, emergency", "pump", "Shinko Industries", "RVP-200MS", ER, "critical", {}, VIBRATION),
    Machine("804.001", "Oily water separator", "separator", "RWO", "OWS-COM 2.5", ER, "critical", {"ppm": 15}, ("oil_content", "ppm", 15.0)),
    Machine("804.011", "Bilge well, aft", "tank", "Shipyard", "BW-AFT", ER, "high", {}, LEVEL),
    Machine("813.001", "Fire pump No.1", "pump", "Shinko Industries", "GVD160-2MS", ER, "critical", {"m3h": 120}, PRESSURE),
    Machine("813.002", "Emergency fire pump", "pump", "Naniwa Pump", "BHR-125", STEERING, "critical", {"m3h": 72}, PRESSURE),
    Machine("815.001", "Fixed CO2 system", "fire_extinguishing", "Survitec", "Unitor CO2 HP", "CO2 room", "critical", {"cylinders": 148}),
    Machine("815.002", "Water mist system, local", "fire_extinguishing", "Danfoss Semco", "SEM-SAFE LAFF", ER, "high", {}),
    Machine("821.001", "Ballast water treatment system", "bwts", "Alfa Laval", "PureBallast 3.2", "Pump room", "critical", {"m3h": 600}, ("uv_intensity", "W/m²", 600.0)),
    Machine("822.001", "Ballast pump No.1", "pump", "Shinko Industries", "GVX250", "Pump room", "high", {"m3h": 600}, VIBRATION),
    Machine("822.002", "Ballast pump No.2", "pump", "Shinko Industries", "GVX250", "Pump room", "high", {"m3h": 600}, VIBRATION),
    Machine("401.001", "Rudder", "rudder", "Becker Marine Systems", "Twisted leading edge", STEERING, "critical", {}),
    Machine("403.001", "Steering gear", "steering_gear", "Kongsberg Maritime", "SR622-FCP", STEERING, "critical", {}, ("hydraulic_pressure", "bar", 120.0)),
    Machine("411.001", "X-band radar", "radar", "Furuno", "FAR-2228", BRIDGE, "critical", {}),
    Machine("411.002", "S-band radar", "radar", "Furuno", "FAR-2238S", BRIDGE, "critical", {}),
    Machine("411.011", "ECDIS No.1", "navigation", "JRC", "JAN-9201", BRIDGE, "critical", {}),
    Machine("412.001", "Gyro compass", "navigation", "Anschütz", "Standard 22 NX", BRIDGE, "critical", {}),
    Machine("421.001", "Inmarsat-C GMDSS", "communication", "Sailor", "6110 mini-C", BRIDGE, "critical", {}),
    Machine("422.001", "VSAT terminal", "communication", "Intellian", "v100NX", "Compass deck", "medium", {}, ("signal_to_noise", "dB", 6.0)),
    Machine("431.001", "Anchor windlass, port", "deck_machinery", "MacGregor", "HAW-81", BOW, "high", {}, ("hydraulic_pressure", "bar", 60.0)),
    Machine("434.001", "Mooring winch, aft", "deck_machinery", "MacGregor", "HMW-20", DECK, "medium", {}),
    Machine("302.001", "Hatch cover, hold No.3", "hatch_cover", "MacGregor", "Folding, hydraulic", CARGO, "high", {}),
    Machine("331.001", "Cargo crane No.2", "crane", "TTS", "GPT 30 t x 28 m", DECK, "high", {"swlT": 30}, ("hydraulic_oil_temperature", "°C", 75.0)),
    Machine("501.001", "Free-fall lifeboat", "lifesaving", "Norsafe", "GES-21 MkII", "Poop deck", "critical", {"persons": 25}),
    Machine("503.001", "Rescue boat davit", "lifesaving", "Palfinger Marine", "NPT-30H", DECK, "critical", {}),
    Machine("551.001", "Galley range", "galley_equipment", "Electrolux Professional", "ECM 4", GALLEY, "low", {}),
    Machine("561.001", "Provision refrigeration compressor", "refrigeration", "Bitzer", "4NES-14Y", "Provision store", "medium", {}, ("room_temperature", "°C", -15.0)),
    Machine("571.001", "Air conditioning plant", "hvac", "Novenco", "Hi-Pres 450", "AC room", "medium", {}, ("suction_pressure", "bar", 3.2)),
    Machine("581.001", "Sewage treatment plant", "sewage", "Evac", "ORCA IV 24", ER, "high", {}, LEVEL),
)  # fmt: skip

CREW = (
    ("Henrik Solberg", "Master", "Deck"),
    ("Maria Teresa Villanueva", "Chief Officer", "Deck"),
    ("Oleksandr Kovalenko", "Second Officer", "Deck"),
    ("Jomar Dela Cruz", "Third Officer", "Deck"),
    ("Tomasz Wiśniewski", "Chief Engineer", "Engine"),
    ("Rajesh Nair", "Second Engineer", "Engine"),
    ("Ioannis Papadakis", "Third Engineer", "Engine"),
    ("Angela Ferreira", "Fourth Engineer", "Engine"),
    ("Dmytro Shevchuk", "Electro-technical Officer", "Engine"),
    ("Reynaldo Bautista", "Bosun", "Deck"),
    ("Arnel Santos", "Able Seaman", "Deck"),
    ("Ketut Wirawan", "Able Seaman", "Deck"),
    ("Edgar Ramos", "Able Seaman", "Deck"),
    ("Made Suardana", "Ordinary Seaman", "Deck"),
    ("Crisanto Mendoza", "Fitter", "Engine"),
    ("Sunil Fernandes", "Oiler", "Engine"),
    ("Noel Aquino", "Oiler", "Engine"),
    ("Putu Ardana", "Wiper", "Engine"),
    ("Roberto Garcia", "Chief Cook", "Galley"),
    ("Lito Villareal", "Messman", "Galley"),
)

#: Maintenance jobs: interval in months, type, description, minutes.
ROUTINES = (
    (1, "inspection", "Monthly inspection: leaks, fastenings, noise; log the running hours.", 60),
    (3, "preventive", "Quarterly service: clean or change filters, grease, check alignment.", 240),
    (6, "calibration", "Half-yearly: calibrate sensors and test the alarms and trips.", 120),
    (12, "overhaul", "Yearly: open up, measure wear, renew seals; class may wish to attend.", 960),
)
FAULTS = (
    ("Leaking mechanical seal", "Drip at the shaft seal, about 10 drops a minute; renew the seal.", "corrective"),
    ("Abnormal vibration at the drive end", "Trend rising since last port; check alignment and bearing.", "corrective"),
    ("Filter differential pressure high", "Clean the elements and inspect for metal particles.", "preventive"),
    ("Sensor reads implausible values", "Compare with the local gauge; renew the transmitter if off.", "corrective"),
    ("Corroded foundation bolts", "Derust, coat and renew two bolts M20.", "corrective"),
    ("Safety device test due", "Test the trips in the presence of the officer on watch.", "inspection"),
    ("Renew wear parts by running hours", "Counter is at the maker's limit; parts are on board.", "preventive"),
    ("Oil sample out of limits", "Water content high; change the oil and take another sample.", "predictive"),
)  # fmt: skip


#: What each larger job consists of, and how many steps of it are done in each status.
STEPS = (
    "Lock out and tag the machine",
    "Dismantle, clean and inspect",
    "Measure and note the clearances",
    "Assemble with new seals",
    "Test run, then hand over to the watch",
)
DONE = {"open": 0, "cancelled": 1, "in_progress": 2, "completed": len(STEPS)}


def _steps(done: int) -> list[dict[str, Any]]:
    return [{"text": text, "done": number < done} for number, text in enumerate(STEPS)]


class Ship(Struct, frozen=True):
    """All rows of the demo as attributes of their models, generated from a seed and a day."""

    today: datetime
    random: Random

    @property
    def commissioned(self) -> datetime:
        """The day on which the system was installed, with the lists of equipment and crew."""
        return self.today - timedelta(days=120)

    def equipment(self) -> Iterator[dict[str, Any]]:
        """The equipment list."""
        for number, machine in enumerate(MACHINES):
            yield {
                "created_at": self.commissioned - timedelta(minutes=number),
                "name": machine.name,
                "type": machine.type,
                "manufacturer": machine.maker,
                "model": machine.model,
                "serial_number": f"{machine.sfi.replace('.', '')}-{self.random.randint(10_000, 99_999)}",
                "location": machine.location,
                "is_active": True,
                "criticality_level": machine.criticality,
                "specifications": {"sfi": machine.sfi, **machine.specifications},
            }

    def crew(self) -> Iterator[dict[str, Any]]:
        """The crew list."""
        for number, (name, rank, department) in enumerate(CREW):
            yield {
                "created_at": self.commissioned - timedelta(hours=2, minutes=number),
                "name": name,
                "rank": rank,
                "department": department,
                "email": f"{rank.lower().replace(' ', '.')}.{number + 1}@mv-arus.example",
                "phone": f"ext. {200 + number}",
                "active": True,
                "on_duty": number % 3 != 2,
            }

    def schedules(self, equipment_ids: list[str], crew_ids: list[str]) -> Iterator[dict[str, Any]]:
        """A year of maintenance: eight weeks in the past, the rest in the future."""
        for number, equipment_id in enumerate(equipment_ids):
            months, kind, text, minutes = ROUTINES[number % len(ROUTINES)]
            first = (
                self.today
                - timedelta(days=56)
                + timedelta(days=self.random.randint(0, 27), hours=8)
            )
            for fenced in range(max(2, min(4, 12 // months))):
                due = first + timedelta(days=round(30.44 * months * fenced))
                overdue = due < self.today - timedelta(days=14) and self.random.random() < 0.1
                past = "overdue" if overdue else "completed"
                engineer = 4 + self.random.randint(0, 4)
                yield {
                    "created_at": self.commissioned
                    + timedelta(hours=1, minutes=4 * number + fenced),
                    "equipment_id": equipment_id,
                    "scheduled_date": due,
                    "maintenance_type": kind,
                    "priority": 2 if MACHINES[number].criticality == "critical" else 3,
                    "estimated_duration": minutes,
                    "description": text,
                    "status": past if due < self.today else "scheduled",
                    "assigned_to": CREW[engineer][0],
                    "assigned_crew_id": crew_ids[engineer],
                }

    def work_orders(
        self, equipment_ids: list[str], crew_ids: list[str], count: int = 80
    ) -> Iterator[dict[str, Any]]:
        """Work orders of the last three months; older ones are more likely to be closed."""
        engineers = [
            crew_ids[number]
            for number, (_, _, department) in enumerate(CREW)
            if department == "Engine"
        ]
        for number in range(count):
            machine = self.random.randrange(len(MACHINES))
            reason, description, kind = self.random.choice(FAULTS)
            raised = self.today - timedelta(
                days=90 * (1 - number / count), minutes=self.random.randint(0, 600)
            )
            start = raised + timedelta(hours=self.random.choice((2, 6, 20, 48, 96)))
            hours = self.random.choice((1, 2, 2, 4, 6, 8, 12))
            status = self._status(number / count)
            yield {
                "created_at": raised,
                "equipment_id": equipment_ids[machine],
                "reason": reason,
                "description": f"{MACHINES[machine].name}: {description}",
                "status": status,
                "priority": 1
                if MACHINES[machine].criticality == "critical"
                else self.random.randint(2, 4),
                "maintenance_type": kind,
                "assigned_crew_id": None if status == "open" else self.random.choice(engineers),
                "estimated_hours": hours,
                "actual_hours": hours + self.random.choice((-0.5, 0, 0.5, 2))
                if status == "completed"
                else None,
                "planned_start_date": start,
                "planned_end_date": start + timedelta(hours=hours),
                "steps": _steps(DONE[status])
                if number % 3 == 0 or status == "in_progress"
                else None,
            }

    def _status(self, age: float) -> str:
        if age < 0.6:
            return "cancelled" if self.random.random() < 0.06 else "completed"
        return self.random.choice(("open", "open", "in_progress", "completed"))

    def alerts(self, equipment_ids: list[str], count: int = 40) -> Iterator[dict[str, Any]]:
        """Alerts of the last month: the older ones acknowledged."""
        watched = [number for number, machine in enumerate(MACHINES) if machine.sensor]
        for number in range(count):
            machine_number = self.random.choice(watched)
            machine = MACHINES[machine_number]
            assert machine.sensor is not None
            sensor, unit, threshold = machine.sensor
            excess = self.random.uniform(0.01, 0.2)
            value = round(threshold + abs(threshold) * excess, 1)
            acknowledged = number < count * 0.75
            raised = self.today - timedelta(
                days=30 * (1 - number / count), minutes=self.random.randint(0, 240)
            )
            yield {
                "created_at": raised,
                "equipment_id": equipment_ids[machine_number],
                "sensor_type": sensor,
                "alert_type": "critical" if excess > 0.12 else "warning",
                "message": f"{machine.name}: {sensor.replace('_', ' ')} {value:g} {unit}, "
                f"limit {threshold:g} {unit}",
                "value": value,
                "threshold": threshold,
                "acknowledged": acknowledged,
                "acknowledged_at": raised + timedelta(minutes=11) if acknowledged else None,
                "acknowledged_by": self.random.choice(CREW[4:9])[0] if acknowledged else None,
            }
