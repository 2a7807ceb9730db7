// What a Java program makes of the console: its URL is the only argument.

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;

public class Console {
    static String first(ResultSet rows) throws SQLException {
        rows.next();
        return rows.getString(1);
    }

    public static void main(String[] arguments) throws SQLException {
        try (Connection connection = DriverManager.getConnection(arguments[0])) {
            connection.setAutoCommit(false);
            connection.getTransactionIsolation();
            try (Statement statement = connection.createStatement()) {
                System.out.println(first(statement.executeQuery("SHOW VERSION")));
            }
            try (PreparedStatement statement = connection.prepareStatement("SHOW ROUTE FOR app app ?")) {
                for (int i = 0; i < 7; i++) { // from the fifth on it is prepared by name
                    statement.setString(1, "delete from anything");
                    ResultSet rows = statement.executeQuery();
                    rows.next();
                    System.out.println(rows.getString("name") + " " + rows.getString("value"));
                }
            }
            connection.commit();
            try (Statement statement = connection.createStatement()) {
                statement.executeQuery("SELECT 1");
            } catch (SQLException error) {
                System.out.println(error.getSQLState());
            }
            connection.rollback();
        }
    }
}
