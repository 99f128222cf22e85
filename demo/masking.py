"""The fourth act: one masking policy. Who is excepted reads plane numbers, and everybody else their hashes, in any query."""

# The grants by hand of the first acts end: they would show the column as it is.
SHARE = """
SET ROLE air_owner;
REVOKE SELECT ON air.flights FROM ursula;
REVOKE SELECT (year, month, day, dep_time, dep_delay, carrier, flight, origin, dest) ON air.flights FROM analysts;
GRANT SELECT ON air.flights TO immuta_system WITH GRANT OPTION;
RESET ROLE;
SELECT immuta.subscribe('ursula', 'air.flights'), immuta.subscribe('dora', 'air.flights')
"""

POLICY = """SELECT immuta.create_masking_policy('plane numbers', 'hash',
    columns => '{air.flights.tailnum}', except_groups => '{analysts}')"""
PLANE = "SELECT tailnum FROM air.flights WHERE carrier = 'UA' AND flight = 1545 AND month = 1 AND day = 1"
PLANES = "SELECT count(DISTINCT tailnum) FROM air.flights WHERE carrier = 'UA'"
FOUND = "SELECT count(*) FROM air.flights WHERE tailnum = 'N14228'"


class MaskingAct:
    def __init__(self, demo):
        self.demo = demo

    def play(self, heading, table):
        demo = self.demo
        heading("11. Masks: one policy, and two users ask the same")
        demo.run(SHARE)
        for statement in (POLICY, "SELECT immuta.add_user_to_group('dora', 'analysts')"):
            print(f"  {statement};".replace("\n", "\n  "))
            demo.run(statement)
        print(f"\n  {PLANE};\n  {PLANES};\n  {FOUND};\n")
        rows = []
        for user in ("ursula", "dora"):
            token = demo.value(f"SELECT immuta.issue_token('{user}')")
            rows.append((user, *(demo.one_value(query, token=token) for query in (PLANE, PLANES, FOUND))))
        (_, masked, distinct, none), (_, shown, planes, flights) = rows
        demo.expect("the plane that dora sees", shown, "N14228")
        demo.expect("length of the plane that ursula sees", (len(masked), masked.isalnum()), (64, True))
        demo.expect("planes that ursula can tell apart", distinct, planes)
        demo.expect("planes of UA", planes, demo.flights.summary("UA").planes)
        demo.expect("flights that ursula finds by the number of a plane", (none, flights > 0), (0, True))
        table(("user", "the plane of UA 1545 on 1 January", "planes", "flights of N14228"),
              [(user, plane[:24] + ("..." if len(plane) > 24 else ""), str(count), str(found)) for user, plane, count, found in rows], right=(2, 3))
        why = "SELECT applies::text, detail FROM immuta.why('{}', 'air.flights') WHERE source = 'masking policy'"
        demo.expect("why", [demo.rows(why.format(user)) for user in ("ursula", "dora")],
                    [[("true", "tailnum: hash")], [("false", "tailnum: the user is excepted")]])
        demo.expect("drift", demo.rows("SELECT * FROM immuta.drift() WHERE what LIKE '%mask%' AND what <> 'mask warning'"), [])
