import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.Statement;

/**
 * Prints on which port each of some read-only transactions runs, and then one that is not. With a third argument they are made
 * read only as Spring does it where that is enforced: by their first statement.
 */
public class ReadOnly {
    public static void main(String[] args) throws Exception {
        try (Connection client = DriverManager.getConnection(args[0])) {
            client.setAutoCommit(false);
            boolean enforced = args.length > 2;
            client.setReadOnly(!enforced);
            for (int turn = 0; turn < Integer.parseInt(args[1]); turn++) {
                if (enforced) {
                    try (Statement statement = client.createStatement()) {
                        statement.executeUpdate("SET TRANSACTION READ ONLY");
                    }
                }
                System.out.println(port(client) == port(client) ? port(client) : -1);
                client.commit();
            }
            client.setReadOnly(false);
            System.out.println(port(client));
            client.rollback();
        }
    }

    static int port(Connection client) throws Exception {
        try (Statement statement = client.createStatement();
                ResultSet rows = statement.executeQuery("select inet_server_port()")) {
            rows.next();
            return rows.getInt(1);
        }
    }
}
