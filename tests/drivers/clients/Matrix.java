// pgjdbc with HikariCP, and Spring's templates over it: see scenario.py. What it is given comes by environment.
import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.sql.Connection;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Timer;
import java.util.TimerTask;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.ArrayList;

public class Matrix {
    static final Map<String, String> GIVEN = System.getenv();
    static final List<String> USERS = List.of("alice", "bob", "carol");
    static final Map<String, String> CARRIER = Map.of("alice", "UA", "bob", "AA", "carol", "DL");
    static final String SEEN = "SELECT min(carrier), max(carrier), count(*) FROM app.orders WHERE id > ?";
    static final String FAILS = "SELECT 1 / (count(*) - count(*)) FROM app.orders";
    static final int TRANSACTIONS = 200;

    static void same(Object seen, Object expected) {
        if (!seen.equals(expected)) throw new AssertionError(seen + " instead of " + expected);
    }

    static List<String> row(Connection connection, String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int i = 0; i < values.length; i++) statement.setObject(i + 1, values[i]);
            try (ResultSet rows = statement.executeQuery()) {
                rows.next();
                String[] row = new String[rows.getMetaData().getColumnCount()];
                for (int i = 0; i < row.length; i++) row[i] = String.valueOf(rows.getString(i + 1));
                return Arrays.asList(row);
            }
        }
    }

    static void execute(Connection connection, String sql, Object... values) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            for (int i = 0; i < values.length; i++) statement.setObject(i + 1, values[i]);
            statement.execute();
        }
    }

    static void seen(Connection connection, String user) throws SQLException {
        same(row(connection, SEEN, 0), List.of(CARRIER.get(user), CARRIER.get(user), "10"));
    }

    static void transaction(Connection connection, String user, int number) throws SQLException {
        row(connection, "SELECT set_config('bodata.impersonation_token', ?, true)", GIVEN.get(user.toUpperCase()));
        seen(connection, user);
        same(row(connection, "SELECT current_user, current_setting('work_mem'), nullif(current_setting('app.left', true), ''),"
                + " to_regclass('pg_temp.left_behind')::text"), List.of(user, "4MB", "null", "null"));
        switch (number % 10) {
            case 1 -> {
                Savepoint savepoint = connection.setSavepoint();
                execute(connection, "INSERT INTO app.orders (carrier) VALUES (?)", CARRIER.get(user));
                fails("22012", () -> row(connection, FAILS));
                connection.rollback(savepoint);
            }
            case 3 -> row(connection, FAILS);
            case 5 -> {
                row(connection, "SELECT set_config('work_mem', '5MB', false), set_config('app.left', 'x', false)");
                execute(connection, "CREATE TEMP TABLE left_behind (a int)");
            }
            case 7 -> {
                execute(connection, "INSERT INTO app.orders (carrier, note) VALUES (?, 'mine')", CARRIER.get(user));
                execute(connection, "DELETE FROM app.orders WHERE note = ?", "mine");
            }
            case 9 -> {
                if (number % 50 == 49) {
                    try (Statement statement = connection.createStatement()) {
                        cancelSoon(statement);
                        statement.execute("SELECT pg_sleep(20)");
                    }
                }
            }
        }
        // With autosave an error in the middle leaves the user impersonated.
        if (number % 20 == 5 && !GIVEN.get("AUTOSAVE").equals("never")) {
            if (GIVEN.get("AUTOSAVE").equals("always")) fails("22012", () -> row(connection, FAILS));
        }
        seen(connection, user);
    }

    static void cancelSoon(Statement statement) {
        Timer timer = new Timer(true);
        timer.schedule(new TimerTask() {
            public void run() {
                try {
                    statement.cancel();
                } catch (SQLException error) {
                    throw new AssertionError(error);
                }
                timer.cancel();
            }
        }, 50);
    }

    interface Act {
        void run() throws SQLException;
    }

    static void fails(String state, Act act) {
        try {
            act.run();
        } catch (SQLException error) {
            if (!state.equals(error.getSQLState())) throw new AssertionError(state, error);
            return;
        }
        throw new AssertionError("no error, expected " + state);
    }

    static void work(HikariDataSource pool, int number) {
        String user = USERS.get(number % 3);
        Act act = () -> {
            try (Connection connection = pool.getConnection()) {
                connection.setAutoCommit(false);
                transaction(connection, user, number);
                connection.commit();
            }
        };
        if (number % 10 == 3) fails("22012", act);
        else if (number % 50 == 49) fails("57014", act);
        else {
            try {
                act.run();
            } catch (SQLException error) {
                throw new AssertionError(number + ": " + error.getSQLState(), error);
            }
        }
        if (number % 20 == 0) {
            fails("42501", () -> {
                try (Connection connection = pool.getConnection()) {
                    row(connection, "SELECT count(*) FROM app.orders");
                }
            });
        }
    }

    public static void main(String[] arguments) throws Exception {
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl("jdbc:postgresql://" + GIVEN.get("HOST") + ":" + GIVEN.get("PORT") + "/" + GIVEN.get("DBNAME")
                + "?prepareThreshold=" + GIVEN.get("THRESHOLD") + "&autosave=" + GIVEN.get("AUTOSAVE"));
        config.setUsername(GIVEN.get("SERVICE"));
        config.setPassword(GIVEN.get("PASSWORD"));
        config.setMaximumPoolSize(2);
        for (int from = 0; from < TRANSACTIONS; from += TRANSACTIONS / 2) {
            try (HikariDataSource pool = new HikariDataSource(config)) {
                ExecutorService workers = Executors.newFixedThreadPool(2);
                List<Future<?>> done = new ArrayList<>();
                for (int number = from; number < from + TRANSACTIONS / 2; number++) {
                    int one = number;
                    done.add(workers.submit(() -> work(pool, one)));
                }
                for (Future<?> one : done) one.get();
                workers.shutdown();
            }
        }
        System.out.println("done " + TRANSACTIONS);
    }
}
