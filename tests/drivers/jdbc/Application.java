// An application on one connection of pgjdbc: two users, the same statements. What it is given comes by environment.
import java.io.ByteArrayOutputStream;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Savepoint;
import java.sql.Statement;
import java.util.Map;
import java.util.Properties;
import org.postgresql.PGConnection;
import org.postgresql.util.PSQLException;

public class Application {
    static final Map<String, String> GIVEN = System.getenv();
    static final Map<String, String> CARRIER = Map.of("ALICE", "UA", "BOB", "AA");
    static final String COUNT = "SELECT min(carrier), max(carrier), count(*) FROM app.orders WHERE id > ?";

    static void check(boolean holds, String what) {
        if (!holds) throw new AssertionError(what);
    }

    static void present(Connection connection, String user, boolean bound) throws SQLException {
        if (bound) {
            try (PreparedStatement statement =
                    connection.prepareStatement("SELECT set_config('bodata.impersonation_token', ?, true)")) {
                statement.setString(1, GIVEN.get(user));
                statement.executeQuery().close();
            }
        } else {
            try (Statement statement = connection.createStatement()) {
                statement.execute("SET LOCAL bodata.impersonation_token = '" + GIVEN.get(user) + "'");
            }
        }
    }

    static void checkRows(Connection connection, String user) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(COUNT)) {
            statement.setInt(1, 0);
            try (ResultSet rows = statement.executeQuery()) {
                rows.next();
                check(rows.getString(1).equals(CARRIER.get(user)) && rows.getString(2).equals(CARRIER.get(user))
                        && rows.getInt(3) == 10, user + " saw " + rows.getString(1) + " " + rows.getInt(3));
            }
        }
    }

    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        properties.setProperty("user", GIVEN.get("SERVICE"));
        properties.setProperty("password", GIVEN.get("PASSWORD"));
        properties.setProperty("prepareThreshold", "2");
        properties.setProperty("preferQueryMode", GIVEN.get("MODE"));
        String url = "jdbc:postgresql://" + GIVEN.get("HOST") + ":" + GIVEN.get("PORT") + "/" + GIVEN.get("DBNAME");
        try (Connection connection = DriverManager.getConnection(url, properties)) {
            connection.setAutoCommit(false);
            for (int i = 0; i < 8; i++) {
                for (String user : new String[] {"ALICE", "BOB"}) {
                    present(connection, user, i % 2 == 0);
                    checkRows(connection, user);
                    connection.commit();
                }
            }
            System.out.println("prepared");

            present(connection, "ALICE", true);
            try (PreparedStatement statement = connection.prepareStatement("SELECT carrier FROM app.orders")) {
                statement.setFetchSize(3);
                int count = 0;
                try (ResultSet rows = statement.executeQuery()) {
                    while (rows.next()) {
                        check(rows.getString(1).equals("UA"), "another's row");
                        count++;
                    }
                }
                check(count == 10, "rows of a cursor: " + count);
            }
            connection.commit();
            System.out.println("cursor");

            present(connection, "BOB", true);
            Savepoint savepoint = connection.setSavepoint();
            try (Statement statement = connection.createStatement()) {
                statement.executeUpdate("DELETE FROM app.orders");
                statement.execute("SELECT 1/0");
                check(false, "no error");
            } catch (PSQLException error) {
                check(error.getSQLState().equals("22012"), error.getMessage());
                connection.rollback(savepoint);
            }
            checkRows(connection, "BOB");
            connection.rollback();
            System.out.println("nested");

            present(connection, "ALICE", true);
            try (PreparedStatement statement =
                    connection.prepareStatement("INSERT INTO app.orders (carrier) VALUES (?)")) {
                for (int i = 0; i < 10; i++) {
                    statement.setString(1, "UA");
                    statement.addBatch();
                }
                check(statement.executeBatch().length == 10, "batch");
            }
            connection.rollback();
            System.out.println("batch");

            // SET SESSION CHARACTERISTICS, or BEGIN READ ONLY, on a connection that has had users.
            connection.setReadOnly(true);
            present(connection, "ALICE", true);
            try (Statement statement = connection.createStatement()) {
                statement.executeUpdate("DELETE FROM app.orders");
                check(false, "written");
            } catch (PSQLException error) {
                check(error.getSQLState().equals("25006"), error.getMessage());
            }
            connection.rollback();
            connection.setReadOnly(false);
            System.out.println("readonly");

            connection.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
            present(connection, "BOB", true);
            checkRows(connection, "BOB");
            check(connection.getTransactionIsolation() == Connection.TRANSACTION_SERIALIZABLE, "isolation");
            connection.commit();
            connection.setTransactionIsolation(Connection.TRANSACTION_READ_COMMITTED);
            check(connection.isValid(5), "not valid");
            System.out.println("isolation");

            try {
                checkRows(connection, "BOB");
                check(false, "seen without a token");
            } catch (PSQLException error) {
                check(error.getServerErrorMessage().getDetail().equals("IMPERSONATION_REQUIRED"), error.getMessage());
            }
            connection.rollback();
            System.out.println("refused");

            present(connection, "ALICE", true);
            ByteArrayOutputStream out = new ByteArrayOutputStream();
            connection.unwrap(PGConnection.class).getCopyAPI()
                    .copyOut("COPY (SELECT DISTINCT carrier FROM app.orders) TO STDOUT", out);
            check(out.toString().equals("UA\n"), out.toString());
            connection.commit();
            System.out.println("copy");
        }
        System.out.println("done");
    }
}
