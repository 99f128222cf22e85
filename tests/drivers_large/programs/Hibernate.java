import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.ArrayList;
import javax.persistence.Column;
import javax.persistence.Entity;
import javax.persistence.GeneratedValue;
import javax.persistence.GenerationType;
import javax.persistence.Id;
import javax.persistence.Table;
import org.hibernate.JDBCException;
import org.hibernate.Query;
import org.hibernate.Session;
import org.hibernate.SessionFactory;
import org.hibernate.Transaction;
import org.hibernate.cfg.Configuration;

/** Hibernate with a pool of two connections: see scenario.py. */
public class Hibernate {
    static final Map<String, String> GIVEN = System.getenv();
    static final Map<String, String> CARRIER = Map.of("alice", "UA", "bob", "AA", "carol", "DL");
    static final List<String> USERS = List.of("alice", "bob", "carol");
    static final String FAILS = "SELECT 1 / (count(*) - count(*)) FROM app.orders";
    static final int TRANSACTIONS = 200;

    @Entity(name = "Order")
    @Table(name = "orders", schema = "app")
    public static class Order {
        @Id
        @GeneratedValue(strategy = GenerationType.IDENTITY)
        @Column(columnDefinition = "serial")
        public Integer id;
        public String carrier;
        public String note;
    }

    interface Act {
        void run();
    }

    static void same(Object seen, Object expected) {
        if (!expected.equals(seen)) throw new AssertionError(seen + " instead of " + expected);
    }

    static void fails(String state, Act act) {
        try {
            act.run();
        } catch (JDBCException error) {
            if (!state.equals(error.getSQLState())) throw new AssertionError(state, error);
            return;
        }
        throw new AssertionError("no error, expected " + state);
    }

    static void seen(Session session, String user) {
        List<?> orders = session.createQuery("FROM Order WHERE id > :least").setInteger("least", 0).list();
        same(orders.size(), 10);
        for (Object order : orders) same(((Order) order).carrier, CARRIER.get(user));
        Order first = (Order) orders.get(0);
        session.evict(first);
        same(((Order) session.get(Order.class, first.id)).carrier, CARRIER.get(user));
    }

    static void as(Session session, String user, int number) {
        session.createSQLQuery("SELECT set_config('bodata.impersonation_token', :token, true)")
                .setString("token", GIVEN.get(user.toUpperCase())).uniqueResult();
        seen(session, user);
        Object[] state = (Object[]) session.createSQLQuery("SELECT cast(current_user AS text), current_setting('work_mem'),"
                + " coalesce(current_setting('app.left', true), ''), cast(to_regclass('pg_temp.left_behind') AS text)").uniqueResult();
        same(Arrays.asList(state), Arrays.asList(user, "4MB", "", null));
        switch (number % 10) {
            case 1 -> session.doWork(connection -> {
                var savepoint = connection.setSavepoint();
                Order order = new Order();
                order.carrier = CARRIER.get(user);
                session.save(order);
                session.flush();
                fails("22012", () -> session.createSQLQuery(FAILS).uniqueResult());
                connection.rollback(savepoint);
                session.clear();
            });
            case 3 -> session.createSQLQuery(FAILS).uniqueResult();
            case 5 -> {
                session.createSQLQuery("SELECT set_config('work_mem', '5MB', false), set_config('app.left', 'x', false)").uniqueResult();
                session.createSQLQuery("CREATE TEMP TABLE left_behind (a int)").executeUpdate();
            }
            case 7 -> {
                Order order = new Order();
                order.carrier = CARRIER.get(user);
                session.save(order);
                session.flush();
                order.note = "changed";
                session.flush();
                session.delete(order);
                session.flush();
            }
            case 9 -> {
                if (number % 50 == 49) {
                    Query slow = session.createSQLQuery("SELECT cast(pg_sleep(20) AS text)").setTimeout(1);
                    slow.uniqueResult();
                }
            }
        }
        session.clear();
        seen(session, user);
    }

    interface Work {
        void in(Session session);
    }

    static void transaction(SessionFactory factory, Work work) {
        Session session = factory.openSession();
        try {
            Transaction transaction = session.beginTransaction();
            try {
                work.in(session);
                transaction.commit();
            } catch (RuntimeException error) {
                transaction.rollback();
                throw error;
            }
        } finally {
            session.close();
        }
    }

    static void work(SessionFactory factory, int number) {
        String user = USERS.get(number % 3);
        Act act = () -> transaction(factory, session -> as(session, user, number));
        if (number % 10 == 3) fails("22012", act);
        else if (number % 50 == 49) fails("57014", act);
        else act.run();
        if (number % 20 == 0) fails("42501", () -> transaction(factory, session -> session.createQuery("FROM Order").list()));
    }

    public static void main(String[] arguments) throws Exception {
        // Where Java finds what it has compiled by itself.
        Thread.currentThread().setContextClassLoader(Hibernate.class.getClassLoader());
        for (int from = 0; from < TRANSACTIONS; from += TRANSACTIONS / 2) {
            SessionFactory factory = new Configuration().addAnnotatedClass(Order.class)
                    .setProperty("hibernate.connection.driver_class", "org.postgresql.Driver")
                    .setProperty("hibernate.connection.url",
                            "jdbc:postgresql://" + GIVEN.get("HOST") + ":" + GIVEN.get("PORT") + "/" + GIVEN.get("DBNAME"))
                    .setProperty("hibernate.connection.username", GIVEN.get("SERVICE"))
                    .setProperty("hibernate.connection.password", GIVEN.get("PASSWORD"))
                    .setProperty("hibernate.connection.pool_size", "2")
                    .setProperty("hibernate.dialect", "org.hibernate.dialect.PostgreSQLDialect").buildSessionFactory();
            ExecutorService workers = Executors.newFixedThreadPool(2);
            List<Future<?>> done = new ArrayList<>();
            for (int number = from; number < from + TRANSACTIONS / 2; number++) {
                int one = number;
                done.add(workers.submit(() -> work(factory, one)));
            }
            for (Future<?> one : done) one.get();
            workers.shutdown();
            factory.close();
        }
        System.out.println("done " + TRANSACTIONS);
    }
}
