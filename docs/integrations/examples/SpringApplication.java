// Spring's JdbcTemplate over HikariCP: a transaction template that begins as the user of the request.
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import com.zaxxer.hikari.HikariConfig;
import com.zaxxer.hikari.HikariDataSource;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.util.Map;
import java.util.concurrent.Executors;
import java.util.function.Supplier;
import java.util.stream.Collectors;
import org.springframework.dao.DataAccessException;
import org.springframework.jdbc.core.JdbcTemplate;
import org.springframework.jdbc.datasource.DataSourceTransactionManager;
import org.springframework.transaction.support.TransactionTemplate;
import java.sql.SQLException;

public class SpringApplication {
    static JdbcTemplate jdbc;
    static TransactionTemplate transaction;

    static <T> T asUser(String token, Supplier<T> work) {
        return transaction.execute(status -> {
            jdbc.queryForObject("SELECT set_config('bodata.impersonation_token', ?, true)", String.class, token);
            return work.get();
        });
    }

    static String flights() {
        return jdbc.queryForList("SELECT carrier, count(*) FROM app.flights GROUP BY carrier").stream()
            .map(row -> "\"" + row.get("carrier") + "\": " + row.get("count")).collect(Collectors.joining(", ", "{", "}"));
    }

    static void handle(HttpExchange exchange) throws IOException {
        String header = exchange.getRequestHeaders().getFirst("Authorization");
        int status = 401;
        String body = "{\"error\": \"sign in again\"}";
        if (header != null && header.startsWith("Bearer ")) {
            try {
                body = asUser(header.substring(7), SpringApplication::flights);
                status = 200;
            } catch (DataAccessException error) {
                SQLException cause = (SQLException) error.getMostSpecificCause();
                if (!"28000".equals(cause.getSQLState())) {
                    status = 500;
                    cause.printStackTrace();
                }
            }
        }
        exchange.sendResponseHeaders(status, body.length());
        exchange.getResponseBody().write(body.getBytes());
        exchange.close();
    }

    public static void main(String[] arguments) throws Exception {
        Map<String, String> environment = System.getenv();
        HikariConfig config = new HikariConfig();
        config.setJdbcUrl("jdbc:postgresql://" + environment.get("PGHOST") + ":" + environment.get("PGPORT") + "/"
            + environment.get("PGDATABASE"));
        config.setUsername(environment.get("PGUSER")); // the service login
        config.setPassword(environment.get("PGPASSWORD"));
        config.setMaximumPoolSize(10);
        HikariDataSource pool = new HikariDataSource(config);
        jdbc = new JdbcTemplate(pool);
        transaction = new TransactionTemplate(new DataSourceTransactionManager(pool));
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", Integer.parseInt(environment.get("PORT"))), 0);
        server.setExecutor(Executors.newFixedThreadPool(10));
        server.createContext("/flights", SpringApplication::handle);
        server.start();
    }
}
