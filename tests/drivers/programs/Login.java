// pgjdbc: one login. The arguments are the URL, the user, and a password if there is one.

import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.util.Properties;

public final class Login {
    public static void main(String[] arguments) throws SQLException {
        Properties properties = new Properties();
        properties.setProperty("user", arguments[1]);
        if (arguments.length > 2) {
            properties.setProperty("password", arguments[2]);
        }
        try (Connection connection = DriverManager.getConnection(arguments[0], properties);
                ResultSet found = connection.createStatement().executeQuery("select current_user")) {
            found.next();
            System.out.println("in " + found.getString(1));
        } catch (SQLException error) {
            System.out.println("out " + error.getSQLState());
            System.err.println(error);
        }
    }
}
